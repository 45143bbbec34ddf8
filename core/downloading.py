"""Receives what is at an address piece by piece, in a thread, so that silence keeps nobody from cancelling."""

import threading
import urllib.request
from collections.abc import Callable, Generator
from http.client import HTTPException
from queue import Empty, Full, Queue

FAULTS = (OSError, HTTPException, ValueError)
_CHUNK_BYTES = 1 << 16
_NUM_WAITING = 16  # chunks received and not yet taken
_TICK_SECONDS = 0.2

_Piece = bytes | int | Exception


def received(address: str, timeout_seconds: float, tick: Callable[[], None]) -> Generator[int | bytes]:
    """What a server sends: first the length that it announces, 0 where it announces none, then the content.

    Args:
        address: ``http://…`` or ``https://…``.
        timeout_seconds: Without a single byte.
        tick: Called several times a second while nothing comes; what it raises ends the download at once.

    Raises:
        OSError, HTTPException, ValueError: If the address is none or the server fails (``FAULTS``).
    """
    pieces, left = Queue[_Piece](_NUM_WAITING), threading.Event()
    threading.Thread(target=_receive, args=(address, timeout_seconds, pieces, left), daemon=True).start()
    try:
        while True:
            try:
                piece = pieces.get(timeout=_TICK_SECONDS)
            except Empty:
                tick()
                continue
            if isinstance(piece, Exception):
                raise piece
            if piece == b"":
                return
            yield piece
    finally:
        left.set()


def _receive(address: str, timeout_seconds: float, pieces: Queue[_Piece], left: threading.Event) -> None:
    def hand_over(piece: _Piece) -> None:
        while not left.is_set():
            try:
                return pieces.put(piece, timeout=_TICK_SECONDS)
            except Full:
                continue

    try:
        with urllib.request.urlopen(address, timeout=timeout_seconds) as response:
            hand_over(response.length or 0)
            while not left.is_set():
                chunk = response.read1(_CHUNK_BYTES)
                hand_over(chunk)
                if not chunk:
                    return
    except Exception as error:  # noqa: BLE001 - whatever it is, the other thread waits for a word
        hand_over(error)
