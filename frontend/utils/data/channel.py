"""Objects between processes over a Unix socket; large arrays travel as shared memory, without a copy on arrival.

A message is a pickle whose large buffers lie in one anonymous memory file (``memfd``); its descriptor goes with the
message and the receiver maps it. Nothing has a name, so nothing is left over when a process dies.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import socket
import struct
import weakref
from typing import Any

_INLINE = 4096  # bytes; what is larger goes into shared memory
_ALIGN = 64
_HEADER = struct.Struct("<IIQ")  # has memory file, number of sizes, length of the inline part

# The loading process's ends. A forked child inherits copies; while it holds one, the worker at the other end cannot
# see its parent die.
_kept: weakref.WeakSet[socket.socket] = weakref.WeakSet()


def pair() -> tuple[socket.socket, socket.socket]:
    """(end to keep, end for a child process)."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    _kept.add(ours)
    return ours, theirs


def _close_copies() -> None:
    for end in list(_kept):
        with contextlib.suppress(OSError):
            end.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)


def send(end: socket.socket, obj: Any) -> None:
    """Send one object; pickling errors leave the channel usable."""
    large: list[memoryview] = []

    def keep_inline(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes >= _INLINE and hasattr(os, "memfd_create"):
            large.append(view)
            return False
        return True

    head = pickle.dumps(obj, protocol=5, buffer_callback=keep_inline)
    if len(head) >= _INLINE and hasattr(os, "memfd_create"):
        large.insert(0, memoryview(head))
        head = b""
    sizes = struct.pack(f"<{len(large)}Q", *(v.nbytes for v in large))
    header = _HEADER.pack(bool(large), len(large), len(head))
    if not large:
        end.sendall(header + head)
        return
    file = os.memfd_create("ingot-batch")
    try:
        total = sum(_padded(v.nbytes) for v in large)
        os.ftruncate(file, total)
        with mmap.mmap(file, total) as memory:
            place = 0
            for view in large:
                memory[place : place + view.nbytes] = view
                place += _padded(view.nbytes)
        socket.send_fds(end, [header], [file])
        end.sendall(sizes + head)
    finally:
        os.close(file)


def receive(end: socket.socket) -> Any:
    """The next object; EOFError when the other side is gone."""
    header, files, _, _ = socket.recv_fds(end, _HEADER.size, 1)
    if not header:
        raise EOFError("the other end is closed")
    with contextlib.ExitStack() as stack:
        for file in files:
            stack.callback(os.close, file)
        header += _exactly(end, _HEADER.size - len(header))
        has_file, count, length = _HEADER.unpack(header)
        sizes = struct.unpack(f"<{count}Q", _exactly(end, 8 * count))
        head = _exactly(end, length)
        if not has_file:
            return pickle.loads(head)
        if not files:
            raise OSError("no file descriptor came with a batch: too many open files?")
        memory = memoryview(mmap.mmap(files[0], sum(map(_padded, sizes))))
    views, place = [], 0
    for size in sizes:
        views.append(memory[place : place + size])
        place += _padded(size)
    if not length:
        head = bytes(views.pop(0))
    return pickle.loads(head, buffers=views)


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def _exactly(end: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = end.recv(min(size, 1 << 20))
        if not part:
            raise EOFError("the other end closed in the middle of a message")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
