"""LLVM text of the thread pool, a part of ``executor_ir``: how a parallel step (a *job*) works.

- A caller takes BUSY by compare-and-swap; if another caller has it, the step runs serially: never a wait.
- It writes the job fields and PENDING = number of chunks, then publishes ``TICKET = {epoch + 1, hi = chunks,
  lo = 0}``. The chunks lo..hi-1 are to be had; the job is open while lo < hi.
- Anyone takes chunks by one compare-and-swap on the whole ticket: even participants (the caller is 0) take
  from number lo on, odd ones up to hi - 1, so that two threads work on the same halves of the data step after
  step and find them in their caches. They do this until the job is closed. A share of what is left is taken
  at a time (SHARE), at least one chunk: few kernel calls at first, and small differences at the end.
- A participant that gets nothing more subtracts the number of chunks it ran from PENDING, once. The caller
  waits for PENDING = 0 (so only for chunks that workers hold) and gives BUSY back.

Why a late worker can do no harm: between the first chunk it took and its subtraction the job cannot end, so
the job fields are stable for it and are read after the swap. The only fields needed before the swap are LIMIT
(may this worker take part?) and SHARE; a swap that succeeds proves that TICKET was still the loaded one, so job e
was open at that moment, hence also when they were read after loading it: the job fields change only while no job
is open, and the epoch makes the ticket of an old job differ from that of a later one.

Sleeping is the usual two-sided check, all sequentially consistent: a worker announces itself in SLEEPERS,
then looks at TICKET again; a caller publishes TICKET, then looks at SLEEPERS. WAKE is read before the
announcement, so a wake-up in between makes futex return at once. Worker i waits with bit min(i, 31), and a
caller wakes only workers below its limit. PENDING and CALLER_SLEEPS work alike in the other direction.

Waking a thread costs the caller 3 to 40 microseconds in the system call and the thread 6 to 40 until it runs,
and a hundred times that on a busy host, most of all where a virtual CPU has gone to sleep. So workers spin between
the steps of a call. ACTIVE counts the calls in flight: while there is one, a worker spins 2**SPIN_WITHIN times as
long as between calls. Sleeping workers are woken before the first step (CALL_WAKE), and again only by steps of
WAKE_PARTS chunks or more.

Spinning is bounded by the clock (POOL_SPIN) and adapts: a worker that spins in vain halves its budget, one
that finds work adds a little to it. A gap between two clock readings as long as a time slice (POOL_LOST) means that the
thread lost its CPU to somebody else, and then it stops spinning at once and for some time: it would take time from
them that the scheduler will not give it when there is work.
Shorter gaps are interrupts: on a virtual machine there are hundreds a second of 20 microseconds and more.
"""

_FUTEX = """
define internal void @futex(ptr %addr, i64 %op, i64 %val, i64 %bits) nounwind {
  %r = call i64 @syscall(ptr %addr, i64 %op, i64 %val, i64 0, i64 0, i64 %bits)
  ret void
}
"""

# Wakes up to ``wanted`` sleeping workers below participant number ``limit``; cheap if none sleeps.
_WAKER = """
define internal void @wake(ptr %pool, i64 %limit, i64 %wanted) nounwind {
  %some = icmp sgt i64 %wanted, 0
  br i1 %some, label %look, label %none
look:
  %sleepers = getelementptr i8, ptr %pool, i64 <POOL_SLEEPERS_BYTES>
  %asleep = load atomic i32, ptr %sleepers seq_cst, align 4
  %any = icmp ne i32 %asleep, 0
  br i1 %any, label %wake, label %none
wake:
  %word = getelementptr i8, ptr %pool, i64 <POOL_WAKE_BYTES>
  %bump = atomicrmw add ptr %word, i32 1 seq_cst, align 4
  %helpers = sub i64 %limit, 1
  %enough = icmp slt i64 %helpers, %wanted
  %many = select i1 %enough, i64 %helpers, i64 %wanted
  %wide = icmp sgt i64 %helpers, 31
  %bit = select i1 %wide, i64 0, i64 %helpers
  %pow = shl i64 1, %bit
  %below = sub i64 %pow, 1
  %mask = select i1 %wide, i64 4294967295, i64 %below
  %count = select i1 %wide, i64 2147483647, i64 %many
  call void @futex(ptr %word, i64 <WAKE>, i64 %count, i64 %mask)
  ret void
none:
  ret void
}
"""

# Takes and runs chunks of the open job until there are none left; returns how many it ran. ``slot`` is the
# participant's number: 0 the caller, worker i is i + 1.
_CHUNKS = """
define internal i64 @chunks(ptr %pool, i64 %slot) nounwind {
entry:
  %job = getelementptr i8, ptr %pool, i64 <POOL_JOB_BYTES>
  %limitp = getelementptr i8, ptr %job, i64 <JOB_LIMIT@8>
  %sharep = getelementptr i8, ptr %job, i64 <JOB_SHARE@8>
  %parity = and i64 %slot, 1
  %odd = icmp eq i64 %parity, 1
  br label %look
look:
  %ran = phi i64 [0, %entry], [%ran, %lost], [%ran1, %won]
  %t = load atomic i64, ptr %pool acquire, align 8
  %open = open %t
  br i1 %open, label %may, label %exit
may:
  %limit = load atomic i64, ptr %limitp acquire, align 8
  %allowed = icmp slt i64 %slot, %limit
  br i1 %allowed, label %take, label %exit
take:
  %share = load atomic i64, ptr %sharep acquire, align 8
  %left = sub i64 %open.hi, %open.lo
  %part = lshr i64 %left, %share
  %none = icmp eq i64 %part, 0
  %k = select i1 %none, i64 1, i64 %part
  %khigh = shl i64 %k, 16
  %up = add i64 %t, %k
  %down = sub i64 %t, %khigh
  %t1 = select i1 %odd, i64 %down, i64 %up
  %swap = cmpxchg ptr %pool, i64 %t, i64 %t1 seq_cst acquire, align 8
  %ok = extractvalue {i64, i1} %swap, 1
  br i1 %ok, label %won, label %lost
lost:
  br label %look
won:
  %fn = pointer %job, <JOB_FN@8>
  %args = pointer %job, <JOB_ARGS@8>
  %trip = field %job, <JOB_TRIP@8>
  %chunk = field %job, <JOB_CHUNK@8>
  %base = pointer %job, <JOB_SCRATCH@8>
  %stride = field %job, <JOB_STRIDE@8>
  %back = sub i64 %open.hi, %k
  %number = select i1 %odd, i64 %back, i64 %open.lo
  %begin = mul i64 %number, %chunk
  %length = mul i64 %k, %chunk
  %full = add i64 %begin, %length
  %short = icmp slt i64 %full, %trip
  %end = select i1 %short, i64 %full, i64 %trip
  %sbyte = mul i64 %slot, %stride
  %scratch = getelementptr i8, ptr %base, i64 %sbyte
  call void %fn(ptr %args, i64 %begin, i64 %end, ptr %scratch)
  %ran1 = add i64 %ran, %k
  br label %look
exit:
  %line = shl i64 %slot, 6
  %lineat = add i64 %line, <POOL_TRACE_BYTES>
  %trace = getelementptr i8, ptr %pool, i64 %lineat
  %before = load i64, ptr %trace
  %total = add i64 %before, %ran
  store i64 %total, ptr %trace
  ret i64 %ran
}
"""

# Runs one step as a job; false if the pool is another caller's at the moment.
_PARALLEL = """
define internal i1 @parallel(ptr %call, ptr %pool, ptr %step, i64 %chunks) nounwind {
entry:
  %busy = getelementptr i8, ptr %pool, i64 <POOL_BUSY_BYTES>
  %seen = load atomic i32, ptr %busy monotonic, align 4
  %free = icmp eq i32 %seen, 0
  br i1 %free, label %try, label %refuse
try:
  %swap = cmpxchg ptr %busy, i32 0, i32 1 acquire monotonic, align 4
  %mine = extractvalue {i32, i1} %swap, 1
  br i1 %mine, label %fill, label %refuse
refuse:
  ret i1 false
fill:
  %job = getelementptr i8, ptr %pool, i64 <POOL_JOB_BYTES>
  %fn = pointer %step, <STEP_FN@8>
  %args = pointer %step, <STEP_ARGS@8>
  %trip = field %step, <STEP_TRIP@8>
  %chunk = field %step, <STEP_CHUNK@8>
  %scratch = pointer %call, <CALL_SCRATCH@8>
  %stride = field %call, <CALL_STRIDE@8>
  %limit = field %call, <CALL_LIMIT@8>
  %portion = field %call, <CALL_SHARE@8>
  %p.fn = getelementptr i8, ptr %job, i64 <JOB_FN@8>
  store ptr %fn, ptr %p.fn
  %p.args = getelementptr i8, ptr %job, i64 <JOB_ARGS@8>
  store ptr %args, ptr %p.args
  %p.trip = getelementptr i8, ptr %job, i64 <JOB_TRIP@8>
  store i64 %trip, ptr %p.trip
  %p.chunk = getelementptr i8, ptr %job, i64 <JOB_CHUNK@8>
  store i64 %chunk, ptr %p.chunk
  %p.scratch = getelementptr i8, ptr %job, i64 <JOB_SCRATCH@8>
  store ptr %scratch, ptr %p.scratch
  %p.stride = getelementptr i8, ptr %job, i64 <JOB_STRIDE@8>
  store i64 %stride, ptr %p.stride
  %p.limit = getelementptr i8, ptr %job, i64 <JOB_LIMIT@8>
  store atomic i64 %limit, ptr %p.limit release, align 8
  %p.share = getelementptr i8, ptr %job, i64 <JOB_SHARE@8>
  store atomic i64 %portion, ptr %p.share release, align 8
  %pending = getelementptr i8, ptr %pool, i64 <POOL_PENDING_BYTES>
  %chunks32 = trunc i64 %chunks to i32
  store atomic i32 %chunks32, ptr %pending monotonic, align 4
  %old = load atomic i64, ptr %pool monotonic, align 8
  %epoch = lshr i64 %old, 32
  %epoch1 = add i64 %epoch, 1
  %high = shl i64 %epoch1, 32
  %hi = shl i64 %chunks, 16
  %ticket = or i64 %high, %hi
  store atomic i64 %ticket, ptr %pool seq_cst, align 8
  %big = icmp sge i64 %chunks, <WAKE_PARTS>
  br i1 %big, label %wake, label %share
wake:
  %parts = sub i64 %chunks, 1
  call void @wake(ptr %pool, i64 %limit, i64 %parts)
  br label %share
share:
  %ran = call i64 @chunks(ptr %pool, i64 0)
  %ran32 = trunc i64 %ran to i32
  %before = atomicrmw sub ptr %pending, i32 %ran32 seq_cst, align 4
  %all = icmp eq i32 %before, %ran32
  br i1 %all, label %finish, label %wait
wait:
  %spinp = getelementptr i8, ptr %pool, i64 <POOL_SPIN_BYTES>
  %between = load i64, ptr %spinp
  %spin = shl i64 %between, <SPIN_CALLER>
  %gapp = getelementptr i8, ptr %pool, i64 <POOL_LOST_BYTES>
  %gap = load i64, ptr %gapp
  %t0 = clock
  br label %spinning
spinning:
  %last = phi i64 [%t0, %wait], [%now, %pausing]
  %p = load atomic i32, ptr %pending acquire, align 4
  %zero = icmp eq i32 %p, 0
  br i1 %zero, label %finish, label %pausing
pausing:
  pause
  %now = clock
  %spent = sub i64 %now, %t0
  %late = icmp ugt i64 %spent, %spin
  %jump = sub i64 %now, %last
  %lost = icmp ugt i64 %jump, %gap
  %stop = or i1 %late, %lost
  br i1 %stop, label %sleep, label %spinning
sleep:
  %sleeps = getelementptr i8, ptr %pool, i64 <POOL_CALLER_SLEEPS_BYTES>
  store atomic i32 1, ptr %sleeps seq_cst, align 4
  br label %again
again:
  %q = load atomic i32, ptr %pending seq_cst, align 4
  %over = icmp eq i32 %q, 0
  br i1 %over, label %awake, label %block
block:
  %q64 = zext i32 %q to i64
  call void @futex(ptr %pending, i64 <WAIT>, i64 %q64, i64 4294967295)
  br label %again
awake:
  store atomic i32 0, ptr %sleeps monotonic, align 4
  br label %finish
finish:
  store atomic i32 0, ptr %busy release, align 4
  ret i1 true
}
"""

_WORKER = """
define internal void @worker(ptr %pool, i64 %index) nounwind {
entry:
  %slot = add i64 %index, 1
  %job = getelementptr i8, ptr %pool, i64 <POOL_JOB_BYTES>
  %limitp = getelementptr i8, ptr %job, i64 <JOB_LIMIT@8>
  %pending = getelementptr i8, ptr %pool, i64 <POOL_PENDING_BYTES>
  %callersleeps = getelementptr i8, ptr %pool, i64 <POOL_CALLER_SLEEPS_BYTES>
  %sleepers = getelementptr i8, ptr %pool, i64 <POOL_SLEEPERS_BYTES>
  %word = getelementptr i8, ptr %pool, i64 <POOL_WAKE_BYTES>
  %stopp = getelementptr i8, ptr %pool, i64 <POOL_STOP_BYTES>
  %spinp = getelementptr i8, ptr %pool, i64 <POOL_SPIN_BYTES>
  %line = shl i64 %slot, 6
  %lineat = add i64 %line, <POOL_TRACE_BYTES>
  %lineat8 = add i64 %lineat, 8
  %sleptp = getelementptr i8, ptr %pool, i64 %lineat8
  %high = icmp sgt i64 %index, 31
  %bitno = select i1 %high, i64 31, i64 %index
  %bit = shl i64 1, %bitno
  %activep = getelementptr i8, ptr %pool, i64 <POOL_ACTIVE_BYTES>
  %gapp = getelementptr i8, ptr %pool, i64 <POOL_LOST_BYTES>
  %max = load i64, ptr %spinp
  %min = lshr i64 %max, <SPIN_LEAST>
  %gap = load i64, ptr %gapp
  br label %idle
idle:
  %budget = phi i64 [%max, %entry], [%bigger, %paid], [%budget.w, %woke]
  %t0 = clock
  br label %spinning
spinning:
  %last = phi i64 [%t0, %idle], [%now, %more]
  %t = load atomic i64, ptr %pool acquire, align 8
  %open = open %t
  br i1 %open, label %may, label %pausing
may:
  %limit = load atomic i64, ptr %limitp acquire, align 8
  %allowed = icmp slt i64 %slot, %limit
  br i1 %allowed, label %work, label %pausing
pausing:
  pause
  %now = clock
  %spent = sub i64 %now, %t0
  %jump = sub i64 %now, %last
  %lost = icmp ugt i64 %jump, %gap
  br i1 %lost, label %tired, label %patient
patient:
  %late = icmp ugt i64 %spent, %budget
  br i1 %late, label %within, label %more
within:
  %calls = load atomic i32, ptr %activep monotonic, align 4
  %callers = icmp ne i32 %calls, 0
  %longer = shl i64 %budget, <SPIN_WITHIN>
  %soon = icmp ult i64 %spent, %longer
  %stay = and i1 %callers, %soon
  br i1 %stay, label %more, label %tired
more:
  br label %spinning
work:
  %ran = call i64 @chunks(ptr %pool, i64 %slot)
  %some = icmp ne i64 %ran, 0
  br i1 %some, label %report, label %paid
report:
  %ran32 = trunc i64 %ran to i32
  %before = atomicrmw sub ptr %pending, i32 %ran32 seq_cst, align 4
  %all = icmp eq i32 %before, %ran32
  br i1 %all, label %notify, label %paid
notify:
  %asleep = load atomic i32, ptr %callersleeps seq_cst, align 4
  %callerwaits = icmp ne i32 %asleep, 0
  br i1 %callerwaits, label %wakecaller, label %paid
wakecaller:
  call void @futex(ptr %pending, i64 <WAKE>, i64 1, i64 4294967295)
  br label %paid
paid:
  %bonus = lshr i64 %min, 1
  %more.time = add i64 %budget, %bonus
  %over = icmp ugt i64 %more.time, %max
  %bigger = select i1 %over, i64 %max, i64 %more.time
  br label %idle
tired:
  %half = lshr i64 %budget, 1
  %less = select i1 %lost, i64 %min, i64 %half
  %under = icmp ult i64 %less, %min
  %budget.w = select i1 %under, i64 %min, i64 %less
  %seq = load atomic i32, ptr %word seq_cst, align 4
  %announce = atomicrmw add ptr %sleepers, i32 1 seq_cst, align 4
  %stop = load atomic i32, ptr %stopp seq_cst, align 4
  %ending = icmp ne i32 %stop, 0
  br i1 %ending, label %exit, label %recheck
recheck:
  %u = load atomic i64, ptr %pool seq_cst, align 8
  %uopen = open %u
  br i1 %uopen, label %recheck2, label %block
recheck2:
  %ulimit = load atomic i64, ptr %limitp acquire, align 8
  %uallowed = icmp slt i64 %slot, %ulimit
  br i1 %uallowed, label %woke, label %block
block:
  %seq64 = zext i32 %seq to i64
  %slept = load i64, ptr %sleptp
  %slept1 = add i64 %slept, 1
  store i64 %slept1, ptr %sleptp
  call void @futex(ptr %word, i64 <WAIT>, i64 %seq64, i64 %bit)
  br label %woke
woke:
  %leave = atomicrmw sub ptr %sleepers, i32 1 seq_cst, align 4
  %stop2 = load atomic i32, ptr %stopp seq_cst, align 4
  %ending2 = icmp ne i32 %stop2, 0
  br i1 %ending2, label %return, label %idle
exit:
  %leave2 = atomicrmw sub ptr %sleepers, i32 1 seq_cst, align 4
  br label %return
return:
  ret void
}
"""

POOL_TEXT = _FUTEX + _WAKER + _CHUNKS + _PARALLEL + _WORKER
