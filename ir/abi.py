"""Memory layout shared by the native step executor (``codegen/executor_ir.py``) and ``runtime/``.

Every field is a 64-bit integer or address; the constants are field numbers, or byte offsets where the name
ends in ``_BYTES`` or says so. Change anything here and VERSION must grow: it is stored in artefacts.

The executor is one function, ``i64 executor(ptr object, i64 op, i64 index)``:

- ``OP_RUN``: object is a Call; runs its steps, returns 0. If one of the first ``index`` ports of CALL_WRITTEN shares
  memory with another port, it does nothing and returns 1.
- ``OP_WORKER``: object is a Pool, index the worker number from 0; returns 0 once the pool's stop flag is set.
- ``OP_CLOCK``: returns the clock that profiles are written in (TSC or the virtual counter).
- ``OP_STOP``: object is a Pool; its workers return soon.
"""

VERSION = 2
EXECUTOR = "executor"  # key of the executor's image in Program.kernels, and its entry function

OP_RUN, OP_WORKER, OP_CLOCK, OP_STOP = 0, 1, 2, 3

# Step: one kernel launch. CHUNKS parts (below 65536) of CHUNK iterations, the last one perhaps shorter; 1 means
# serial, 0 that there is nothing to do. Participants take several parts at a time.
STEP_FN, STEP_ARGS, STEP_TRIP, STEP_CHUNK, STEP_CHUNKS = range(5)
STEP_FIELDS = 8

# Call: what one native call works on.
(
    CALL_STEPS,  # address of the step table
    CALL_COUNT,  # number of steps
    CALL_POOL,  # address of the Pool, 0: everything serial
    CALL_SCRATCH,  # scratch of participant 0; participant i has SCRATCH + i * STRIDE
    CALL_STRIDE,
    CALL_LIMIT,  # participants at most, the caller included
    CALL_TIMES,  # 0, or where to write COUNT + 1 clock readings
    CALL_PORTS,  # one entry per input, then per output: an address
    CALL_DEREF,  # 0: ports are data addresses; n: they are objects that hold the data address at byte n
    CALL_PATCHES,  # Patches to apply before the first step
    CALL_PATCH_COUNT,
    CALL_SHARE,  # a participant takes at most 1 / 2**SHARE of the parts that are left at a time
    CALL_WAKE,  # sleeping workers worth waking before the first step
    CALL_SIZES,  # bytes of each port, 0 for those that no other port can share memory with
    CALL_WRITTEN,  # numbers of the ports that are written
    CALL_PORT_COUNT,
) = range(16)
CALL_FIELDS = 16

# Patch: *SLOT = address of port PORT + OFFSET.
PATCH_SLOT, PATCH_PORT, PATCH_OFFSET = range(3)
PATCH_FIELDS = 3

# Pool: shared by all callers of a process; byte offsets, one cache line (128: prefetched in pairs) per writer.
POOL_TICKET_BYTES = 0  # {epoch: 32 | hi: 16 | lo: 16}: chunks lo..hi-1 are not taken yet
POOL_JOB_BYTES = 128  # JOB fields below
POOL_PENDING_BYTES = 256  # i32 futex: chunks not finished
POOL_CALLER_SLEEPS_BYTES = 264  # i32
POOL_BUSY_BYTES = 384  # i32: a caller owns the job fields
POOL_SLEEPERS_BYTES = 512  # i32: workers that wait or are about to
POOL_WAKE_BYTES = 520  # i32 futex: bumped for each wake-up
POOL_STOP_BYTES = 528  # i32
POOL_SPIN_BYTES = 640  # i64: longest spin of a worker between two calls, in clock ticks
POOL_LOST_BYTES = 648  # i64: a gap between two clock readings that shows a lost time slice, in clock ticks
POOL_ACTIVE_BYTES = 768  # i32: calls in flight that have steps to share
POOL_TRACE_BYTES = 1024  # one line of 64 bytes per participant: i64 chunks run, i64 waits slept through
POOL_MAX_PARTICIPANTS = 256
POOL_BYTES = POOL_TRACE_BYTES + 64 * POOL_MAX_PARTICIPANTS

JOB_FN, JOB_ARGS, JOB_TRIP, JOB_CHUNK, JOB_SCRATCH, JOB_STRIDE, JOB_LIMIT, JOB_SHARE = range(8)

# Shifts of POOL_SPIN: down to the shortest spin of a worker, up to the longest within a call, and to that of a caller
# that waits for workers to finish.
SPIN_LEAST, SPIN_WITHIN, SPIN_CALLER = 4, 3, 2
# A step of fewer parts (about 10 microseconds each) is not worth waking a sleeping worker for.
WAKE_PARTS = 8
