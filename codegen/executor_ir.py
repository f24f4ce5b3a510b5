"""LLVM text of the native step executor: walks a program's step table and shares loops out to threads.

Layouts and operations are in ``ir.abi``; how a step is shared out in ``executor_pool``.
"""

from __future__ import annotations

import re

from ..ir import abi
from ..ir.target import Target
from .executor_pool import POOL_TEXT

# The futex call is machine code given as data (images are executable as a whole), not inline assembly: LLVM as
# shipped parses only the host's assembly, and this text is also compiled on other machines. Its six arguments
# are futex(addr, op, val, timeout = 0, addr2 = 0, val3).
_X86 = {
    "clock": "llvm.readcyclecounter",
    "pause": "  call void @llvm.x86.sse2.pause()\n",
    "declare": (
        "declare i64 @llvm.readcyclecounter()\ndeclare void @llvm.x86.sse2.pause()\n"
        # mov r10, rcx; mov eax, 202; syscall; ret
        '@syscall = internal constant [11 x i8] c"\\49\\89\\CA\\B8\\CA\\00\\00\\00\\0F\\05\\C3", align 16\n'
    ),
}
_ARM = {
    "clock": "llvm.readsteadycounter",
    "pause": "  call void @llvm.aarch64.isb(i32 15)\n",
    "declare": (
        "declare i64 @llvm.readsteadycounter()\ndeclare void @llvm.aarch64.isb(i32)\n"
        # mov x8, 98; svc 0; ret
        "@syscall = internal constant [3 x i32] [i32 -763360184, i32 -738197503, i32 -698416192], align 16\n"
    ),
}
# FUTEX_WAIT_BITSET and FUTEX_WAKE_BITSET, both FUTEX_PRIVATE.
_WAIT, _WAKE = 9 | 128, 10 | 128


def executor_ir(target: Target, workers: bool = True) -> str:
    """LLVM text of function ``abi.EXECUTOR`` for ``target``.

    ``workers=False`` leaves out everything that needs the Linux futex call; every step is then serial.
    """
    machine = _X86 if target.is_x86 else _ARM
    parts = [machine["declare"], _ENTRY if workers else _ENTRY_SERIAL, _CLASH, _run(workers)]
    if workers:
        parts.append(POOL_TEXT)
    names = {name: str(value) for name, value in vars(abi).items() if isinstance(value, int)}
    names |= {f"{name}@8": str(8 * value) for name, value in vars(abi).items() if isinstance(value, int)}
    text = _expand("\n".join(parts), machine)
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(f"<{name}>", names[name])
    return text.replace("<WAIT>", str(_WAIT)).replace("<WAKE>", str(_WAKE))


def _expand(text: str, machine: dict[str, str]) -> str:
    """Replaces the shorthands of the texts below: nothing is inlined after this, so no functions for them.

    ``%x = field %p, n`` and ``%x = pointer %p, n`` load the integer or address at byte n of %p; ``%x = clock``;
    ``pause``; ``%x = open %t``: whether ticket %t has chunks left.
    """
    load = r"  %\1.at = getelementptr i8, ptr %\2, i64 \3\n  %\1 = load {}, ptr %\1.at"
    text = re.sub(r"  %(\S+) = field %(\S+), (\S+)", load.format("i64"), text)
    text = re.sub(r"  %(\S+) = pointer %(\S+), (\S+)", load.format("ptr"), text)
    text = re.sub(r"  %(\S+) = clock", rf"  %\1 = call i64 @{machine['clock']}()", text)
    text = re.sub(r"  pause\n", machine["pause"], text)
    return re.sub(
        r"  %(\S+) = open %(\S+)",
        r"  %\1.lo = and i64 %\2, 65535\n  %\1.up = lshr i64 %\2, 16\n  %\1.hi = and i64 %\1.up, 65535\n"
        r"  %\1 = icmp ult i64 %\1.lo, %\1.hi",
        text,
    )


_ENTRY = """
define i64 @executor(ptr %object, i64 %op, i64 %index) nounwind {
  switch i64 %op, label %run [ i64 <OP_WORKER>, label %worker
                               i64 <OP_CLOCK>, label %clock
                               i64 <OP_STOP>, label %stop ]
stop:
  %flag = getelementptr i8, ptr %object, i64 <POOL_STOP_BYTES>
  store atomic i32 1, ptr %flag seq_cst, align 4
  %word = getelementptr i8, ptr %object, i64 <POOL_WAKE_BYTES>
  %bump = atomicrmw add ptr %word, i32 1 seq_cst, align 4
  call void @futex(ptr %word, i64 <WAKE>, i64 2147483647, i64 4294967295)
  ret i64 0
run:
  %shared = call i1 @clash(ptr %object, i64 %index)
  br i1 %shared, label %refuse, label %start
refuse:
  ret i64 1
start:
  call void @run(ptr %object)
  ret i64 0
worker:
  call void @worker(ptr %object, i64 %index)
  ret i64 0
clock:
  %t = clock
  ret i64 %t
}
"""
_ENTRY_SERIAL = """
define i64 @executor(ptr %object, i64 %op, i64 %index) nounwind {
  switch i64 %op, label %none [ i64 <OP_RUN>, label %run
                                i64 <OP_CLOCK>, label %clock ]
run:
  %shared = call i1 @clash(ptr %object, i64 %index)
  br i1 %shared, label %refuse, label %start
refuse:
  ret i64 1
start:
  call void @run(ptr %object)
  ret i64 0
clock:
  %t = clock
  ret i64 %t
none:
  ret i64 0
}
"""


# Whether one of the first ``count`` written ports shares memory with another port.
_CLASH = """
define internal i1 @clash(ptr %call, i64 %count) nounwind {
entry:
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %start, label %fine
start:
  %ports = pointer %call, <CALL_PORTS@8>
  %deref = field %call, <CALL_DEREF@8>
  %sizes = pointer %call, <CALL_SIZES@8>
  %written = pointer %call, <CALL_WRITTEN@8>
  %all = field %call, <CALL_PORT_COUNT@8>
  %objects = icmp ne i64 %deref, 0
  br label %outer
outer:
  %i = phi i64 [0, %start], [%i1, %next]
  %ibyte = shl i64 %i, 3
  %p = field %written, %ibyte
  %pbyte = shl i64 %p, 3
  %psize = field %sizes, %pbyte
  %praw = pointer %ports, %pbyte
  br i1 %objects, label %pobject, label %pknown
pobject:
  %pinner = pointer %praw, %deref
  br label %pknown
pknown:
  %pdata = phi ptr [%praw, %outer], [%pinner, %pobject]
  %pstart = ptrtoint ptr %pdata to i64
  %pend = add i64 %pstart, %psize
  %pempty = icmp eq i64 %psize, 0
  br i1 %pempty, label %next, label %inner
inner:
  %j = phi i64 [0, %pknown], [%j1, %again]
  %jbyte = shl i64 %j, 3
  %qsize = field %sizes, %jbyte
  %same = icmp eq i64 %j, %p
  %qempty = icmp eq i64 %qsize, 0
  %skip = or i1 %same, %qempty
  br i1 %skip, label %again, label %look
look:
  %qraw = pointer %ports, %jbyte
  br i1 %objects, label %qobject, label %qknown
qobject:
  %qinner = pointer %qraw, %deref
  br label %qknown
qknown:
  %qdata = phi ptr [%qraw, %look], [%qinner, %qobject]
  %qstart = ptrtoint ptr %qdata to i64
  %qend = add i64 %qstart, %qsize
  %before = icmp ult i64 %pstart, %qend
  %after = icmp ult i64 %qstart, %pend
  %clash = and i1 %before, %after
  br i1 %clash, label %found, label %again
again:
  %j1 = add i64 %j, 1
  %jmore = icmp slt i64 %j1, %all
  br i1 %jmore, label %inner, label %next
next:
  %i1 = add i64 %i, 1
  %imore = icmp slt i64 %i1, %count
  br i1 %imore, label %outer, label %fine
found:
  ret i1 true
fine:
  ret i1 false
}
"""


def _run(workers: bool) -> str:
    enter = (
        """
  %pooled = icmp ne ptr %pool, null
  br i1 %pooled, label %enter, label %patch.first
enter:
  %active = getelementptr i8, ptr %pool, i64 <POOL_ACTIVE_BYTES>
  %calls = atomicrmw add ptr %active, i32 1 monotonic, align 4
  %wanted = field %call, <CALL_WAKE@8>
  %limit = field %call, <CALL_LIMIT@8>
  call void @wake(ptr %pool, i64 %limit, i64 %wanted)
  br label %patch.first
"""
        if workers
        else "  br label %patch.first\n"
    )
    leave = (
        """
  br i1 %pooled, label %leave, label %done.all
leave:
  %active.l = getelementptr i8, ptr %pool, i64 <POOL_ACTIVE_BYTES>
  %calls.l = atomicrmw sub ptr %active.l, i32 1 monotonic, align 4
  br label %done.all
"""
        if workers
        else "  br label %done.all\n"
    )
    share = (
        """
  %many = icmp sgt i64 %chunks, 1
  %try = and i1 %many, %pooled
  br i1 %try, label %parallel, label %serial
parallel:
  %done = call i1 @parallel(ptr %call, ptr %pool, ptr %step, i64 %chunks)
  br i1 %done, label %next, label %serial
"""
        if workers
        else "  br label %serial\n"
    )
    return (
        """
define internal void @run(ptr %call) nounwind {
entry:
  %steps = pointer %call, <CALL_STEPS@8>
  %count = field %call, <CALL_COUNT@8>
  %pool = pointer %call, <CALL_POOL@8>
  %scratch = pointer %call, <CALL_SCRATCH@8>
  %times = pointer %call, <CALL_TIMES@8>
  %ports = pointer %call, <CALL_PORTS@8>
  %deref = field %call, <CALL_DEREF@8>
  %objects = icmp ne i64 %deref, 0
  %patches = pointer %call, <CALL_PATCHES@8>
  %npatches = field %call, <CALL_PATCH_COUNT@8>
  %timed = icmp ne ptr %times, null
"""
        + enter
        + """
patch.first:
  br label %patch
patch:
  %k = phi i64 [0, %patch.first], [%k1, %store]
  %patched = icmp sge i64 %k, %npatches
  br i1 %patched, label %head, label %one
one:
  %kbyte = mul i64 %k, 24
  %patchp = getelementptr i8, ptr %patches, i64 %kbyte
  %slot = pointer %patchp, <PATCH_SLOT@8>
  %port = field %patchp, <PATCH_PORT@8>
  %offset = field %patchp, <PATCH_OFFSET@8>
  %portbyte = shl i64 %port, 3
  %raw = pointer %ports, %portbyte
  br i1 %objects, label %object, label %store
object:
  %inner = pointer %raw, %deref
  br label %store
store:
  %data = phi ptr [%raw, %one], [%inner, %object]
  %address = getelementptr i8, ptr %data, i64 %offset
  store ptr %address, ptr %slot
  %k1 = add i64 %k, 1
  br label %patch
head:
  %i = phi i64 [0, %patch], [%i1, %next]
  br i1 %timed, label %time, label %check
time:
  %now = clock
  %timep = getelementptr i64, ptr %times, i64 %i
  store i64 %now, ptr %timep
  br label %check
check:
  %more = icmp slt i64 %i, %count
  br i1 %more, label %body, label %exit
body:
  %ibyte = shl i64 %i, 6
  %step = getelementptr i8, ptr %steps, i64 %ibyte
  %chunks = field %step, <STEP_CHUNKS@8>
  %empty = icmp eq i64 %chunks, 0
  br i1 %empty, label %next, label %work
work:"""
        + share
        + """
serial:
  %fn = pointer %step, <STEP_FN@8>
  %args = pointer %step, <STEP_ARGS@8>
  %trip = field %step, <STEP_TRIP@8>
  call void %fn(ptr %args, i64 0, i64 %trip, ptr %scratch)
  br label %next
next:
  %i1 = add i64 %i, 1
  br label %head
exit:
"""
        + leave
        + """
done.all:
  ret void
}
"""
    )
