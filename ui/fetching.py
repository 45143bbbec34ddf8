"""Fetching data sets with a button: for whoever sits at the machine that stores them."""

import ipaddress
from urllib.parse import urlsplit

import streamlit as st

from core.data import data_root_to_fill
from core.errors import ExitLensError
from core.sources import SOURCES
from ui import cache, running
from ui.controls import DATASET_LABELS
from ui.words import meaning

# Set by proxies: the visitor is then somewhere else, though the connection comes from this machine.
PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip")


def fetch_controls() -> None:
    """A button for each data set that is not complete here; progress with Cancel, and what went wrong.

    Nothing at all for visitors from elsewhere: a fetch fills this machine's disk over this machine's connection.
    """
    if not is_local_visit():
        return
    try:
        missing, root = cache.missing_data_sets(), data_root_to_fill()
    except ExitLensError:  # a wrong data root: the table of image sets says so
        return
    if not missing:
        return
    st.subheader("Get a data set", help=meaning("fetch", "data root"))
    st.caption(f"Each from its official address, compared with its checksum, and stored in `{root}`.")
    offered = [name for name in missing if not _is_under_way(name)]
    with st.container(horizontal=True):
        for name in offered:
            label = f"Fetch {DATASET_LABELS[name]} ({SOURCES[name].num_bytes / 1e6:.0f} MB)"
            st.button(label, key=f"fetch-{name}", on_click=cache.start_fetch, args=(name,))


def _is_under_way(name: str) -> bool:
    """Whether a data set is being fetched: then its progress is shown; after a failure, the reason."""
    board = cache.fetch_board()
    job = board.find(name)
    if job is None or job.was_cancelled:
        return False
    if not job.is_over:
        st.markdown(f"Fetching {DATASET_LABELS[name]} …")
        running.progress(job, key=f"cancel-fetch-{name}", starting="waiting to start")
        return True
    try:
        job.result()
    except ExitLensError as error:
        st.error(str(error))
        return False
    # It came after the list of missing ones was made.
    board.forget(name)
    cache.forget_data_sets()
    st.rerun()


def is_local_visit() -> bool:
    """Whether the server listens on loopback alone and this visitor reached it through loopback, without a proxy."""
    headers = st.context.headers
    hosts = [st.get_option("server.address"), _host_of(st.context.url or "")]
    if "Host" in headers:
        hosts.append(_host_of(f"//{headers['Host']}"))
    if st.context.ip_address is not None:  # None is Streamlit's word for 127.0.0.1 and ::1
        hosts.append(st.context.ip_address)
    return not any(name in headers for name in PROXY_HEADERS) and all(map(is_loopback, hosts))


def is_loopback(host: str | None) -> bool:
    """Whether a host name or address means this machine and no other."""
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _host_of(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:  # half an IPv6 address
        return None
