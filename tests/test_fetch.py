"""Fetching data sets: from a local server and from files, whole and damaged, into good and bad places."""

import hashlib
import os
import random
import resource
import signal
import socket
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from streamlit.testing.v1 import AppTest
from torch import Tensor
from toys import TOY_CLASSES, TOY_DATASET, toy_image_set, write_hub_parquet

from core import sources
from core.__main__ import main
from core.archives import CifarLayout, read_cifar, read_tiny_imagenet
from core.checkpoints import list_models
from core.data import DATA_ROOT_VARIABLE, ImageSet, data_root, open_image_set
from core.datasets import DATASETS
from core.errors import Cancelled, ExitLensError
from core.fetch import fetch, missing_data_sets
from core.progress import Progress
from core.sources import SOURCES, Source

ROOT = Path(__file__).parents[1]
NUM_TRAIN, NUM_TEST = TOY_DATASET.num_train, TOY_DATASET.num_test
LAYOUT = CifarLayout(("toy-bin/batch_1.bin", "toy-bin/batch_2.bin"), "toy-bin/test.bin", num_label_bytes=1)
LOCAL = {"url": "http://localhost:8501"}


# Archives


def noise(num_images: int, split: str, seed: int) -> ImageSet:
    """Pictures without order, so that no transposition leaves one as it is."""
    plain = toy_image_set(num_images, split=split, seed=seed)
    pixels = torch.randint(0, 256, plain.images.shape, generator=torch.Generator().manual_seed(seed))
    labels = torch.randint(0, len(TOY_CLASSES), (num_images,), generator=torch.Generator().manual_seed(seed + 1))
    return replace(plain, images=pixels.to(torch.uint8), labels=labels)


TRAIN, TEST = noise(NUM_TRAIN, "train", 1), noise(NUM_TEST, "test", 2)


def records(images: Tensor, labels: Tensor, before: bytes = b"") -> bytes:
    """Label, then red, green and blue row by row; ``before`` stands before each label."""
    return b"".join(
        before + bytes([int(label)]) + bytes(image.flatten().tolist())
        for image, label in zip(images, labels, strict=True)
    )


def cifar_members() -> dict[str, bytes]:
    half = NUM_TRAIN // 2
    return {  # not in the official order, as the official archive is not
        "toy-bin/readme.html": b"<html>",
        "toy-bin/batch_2.bin": records(TRAIN.images[half:], TRAIN.labels[half:]),
        "toy-bin/test.bin": records(TEST.images, TEST.labels),
        "toy-bin/batch_1.bin": records(TRAIN.images[:half], TRAIN.labels[:half]),
    }


def tar(members: dict[str, bytes], *links: tarfile.TarInfo) -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, BytesIO(content))
        for link in links:
            archive.addfile(link)
    return buffer.getvalue()


GOOD = tar(cifar_members())


# A server


@dataclass
class Served:
    """What the local server answers: the body, and how it goes wrong."""

    address: str
    body: bytes = GOOD
    claims_length: int | None = len(GOOD)
    status: int = 200
    in_the_middle: Callable[[], object] = lambda: None
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked.append(self.path)
            self.send_response(served.status)
            if served.claims_length is not None:
                self.send_header("Content-Length", str(served.claims_length))
            self.end_headers()
            half = len(served.body) // 2
            self.wfile.write(served.body[:half])
            self.wfile.flush()
            served.in_the_middle()
            self.wfile.write(served.body[half:])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        served = Served(f"http://127.0.0.1:{http.server_address[1]}/toy.tar.gz")
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        yield served
        http.shutdown()
        thread.join()


@pytest.fixture
def toy(server: Served, monkeypatch: pytest.MonkeyPatch, toy_registry: None) -> Served:
    """The data set ``toy`` with its official archive on the local server."""
    dataset = replace(TOY_DATASET, class_names=TOY_CLASSES)
    monkeypatch.setitem(DATASETS, "toy", dataset)
    read = partial(read_cifar, layout=LAYOUT)
    source = Source(server.address, hashlib.md5(GOOD).hexdigest(), len(GOOD), read)
    monkeypatch.setitem(SOURCES, "toy", source)
    return server


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and no data root."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def interrupt() -> Iterator[None]:
    """Ctrl-C as it was before a command took it."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def saved(content: bytes, folder: Path) -> str:
    file = folder / "archive"
    file.write_bytes(content)
    return str(file)


# What arrives


def test_download_is_read_back_pixel_by_pixel_under_its_official_ids(toy: Served, tmp_path: Path) -> None:
    # Mutants: planes read as RGBRGB or columns first, labels off by a byte, batches in the archive's order.
    seen: list[Progress] = []
    fetched = fetch("toy", root=tmp_path / "data", on_progress=seen.append)
    assert fetched.written == {"train": NUM_TRAIN, "test": NUM_TEST} and fetched.kept == ()
    train, validation = (open_image_set(f"toy:{split}", tmp_path / "data") for split in ("train", "validation"))
    assert train.image_ids + validation.image_ids == [f"toy/train/{index}" for index in range(NUM_TRAIN)]
    assert torch.equal(torch.cat([train.images, validation.images]), TRAIN.images)
    assert torch.equal(torch.cat([train.labels, validation.labels]), TRAIN.labels)
    test = open_image_set("toy:test", tmp_path / "data")
    assert torch.equal(test.images, TEST.images) and torch.equal(test.labels, TEST.labels)
    assert everything_below(tmp_path / "data") == ["toy", "toy/test.parquet", "toy/train.parquet"]
    shares = [progress.share for progress in seen]
    assert shares == sorted(shares) and shares[0] > 0 and shares[-1] == 1.0
    assert toy.asked == ["/toy.tar.gz"]


def test_two_label_bytes_mean_that_the_second_is_the_class(toy: Served, tmp_path: Path) -> None:
    # Mutant: the first byte taken, which is the superclass in CIFAR-100.
    layout = CifarLayout(("train.bin",), "test.bin", num_label_bytes=2)
    members = {
        "./train.bin": records(TRAIN.images, TRAIN.labels, before=b"\x63"),
        "./test.bin": records(TEST.images, TEST.labels, before=b"\x63"),
    }
    contents = read_cifar(BytesIO(tar(members)), DATASETS["toy"], layout)
    assert [picture.label for picture in contents.train()] == TRAIN.labels.tolist()
    picture = next(iter(contents.test()))
    decoded = torch.tensor(list(Image.open(BytesIO(picture.encoded)).tobytes()), dtype=torch.uint8)
    assert torch.equal(decoded.reshape(8, 8, 3).permute(2, 0, 1), TEST.images[0])


def test_image_column_names_its_classes_as_the_hub_does(toy: Served, tmp_path: Path) -> None:
    # Mutant: no metadata, and other readers of the file see bare numbers.
    fetch("toy", root=tmp_path)
    schema = pq.read_schema(tmp_path / "toy/test.parquet")
    assert b'"names": ["red", "green", "blue", "grey"]' in schema.metadata[b"huggingface"]
    assert pq.ParquetFile(tmp_path / "toy/test.parquet").read()["image"][3].as_py()["path"] == "test_00003.png"


WNIDS = ["n04", "n01", "n03", "n02"]  # as in wnids.txt: not in alphabetical order


def jpeg(seed: int, size: int = 8) -> bytes:
    buffer = BytesIO()
    Image.frombytes("RGB", (size, size), random.Random(seed).randbytes(3 * size * size)).save(buffer, "JPEG")
    return buffer.getvalue()


def tiny_members() -> dict[str, bytes]:
    lines = "".join(f"val_{index}.JPEG\t{WNIDS[index % 3]}\t0\t0\t7\t7\n" for index in reversed(range(NUM_TEST)))
    return {
        "wnids.txt": "\n".join(WNIDS).encode(),
        "words.txt": b"n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\ttrilobite\nn03\tscorpion\nn04\tgoose\n",
        "val/val_annotations.txt": lines.encode(),
        **{f"val/images/val_{index}.JPEG": jpeg(index) for index in range(NUM_TEST)},
        **{
            f"train/{name}/images/{name}_{number}.JPEG": jpeg(1000 + 100 * int(name[1:]) + number)
            for name in WNIDS
            for number in range(NUM_TRAIN // len(WNIDS))
        },
        "test/images/test_0.JPEG": jpeg(5),
    }


def tiny(members: dict[str, bytes]) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            # Without a date of its own a member takes the clock's, and the checksum with it.
            member = zipfile.ZipInfo(f"tiny-imagenet-200/{name}")
            archive.writestr(member, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def test_the_archive_of_the_tests_is_the_same_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: members dated by the clock, so that a checksum taken a moment earlier is another one.
    before = tiny(tiny_members())
    monkeypatch.setattr("time.time", lambda: 1e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2001, 9, 9, 1, 46, 40, 6, 252, 0))
    assert tiny(tiny_members()) == before


@pytest.fixture
def toy_tiny(toy: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set ``toy`` packed as Tiny-ImageNet is."""
    monkeypatch.setitem(DATASETS, "toy", replace(TOY_DATASET, test_file="valid"))
    content = tiny(tiny_members())
    source = Source("http://nowhere/toy.zip", hashlib.md5(content).hexdigest(), len(content), read_tiny_imagenet)
    monkeypatch.setitem(SOURCES, "toy", source)


@pytest.mark.usefixtures("toy_tiny")
def test_tiny_imagenet_keeps_its_jpegs_and_sorts_its_classes(tmp_path: Path) -> None:
    # Mutants: classes in the order of wnids.txt, pictures encoded anew, annotations read row by row.
    fetch("toy", saved(tiny(tiny_members()), tmp_path), tmp_path / "data")
    test = open_image_set("toy:test", tmp_path / "data")
    assert test.class_names == ("goldfish", "trilobite", "scorpion", "goose")
    assert test.image_ids == [f"toy/valid/{index}" for index in range(NUM_TEST)]
    assert test.labels.tolist() == [sorted(WNIDS).index(WNIDS[index % 3]) for index in range(NUM_TEST)]
    rows = pq.read_table(tmp_path / "data/toy/valid.parquet")["image"].to_pylist()
    assert rows[7] == {"path": "val_7.JPEG", "bytes": jpeg(7)}
    train = pq.read_table(tmp_path / "data/toy/train.parquet").to_pylist()
    assert train[5] == {"image": {"path": "train_5.JPEG", "bytes": jpeg(1000 + 200 + 1)}, "label": 1}


@pytest.mark.usefixtures("toy_tiny")
def test_tiny_imagenets_validation_has_every_class_equally_often(tmp_path: Path) -> None:
    # Mutant: training images class by class, and validation, their last tenth, is of the last classes alone.
    fetch("toy", saved(tiny(tiny_members()), tmp_path), tmp_path / "data")
    labels = open_image_set("toy:validation", tmp_path / "data").labels
    assert labels.bincount().tolist() == [TOY_DATASET.num_validation // len(WNIDS)] * len(WNIDS)


def test_official_layouts_ask_for_members_of_the_official_size() -> None:
    # Mutant: a batch too few or a label byte too many. The authors give 30,730,000 bytes for a batch of CIFAR-10.
    batches, hundred = (SOURCES[name].read.keywords["layout"] for name in ("cifar10", "cifar100"))
    assert DATASETS["cifar10"].num_train // len(batches.train) * (3 * 32 * 32 + batches.num_label_bytes) == 30_730_000
    assert DATASETS["cifar100"].num_train // len(hundred.train) * (3072 + hundred.num_label_bytes) == 50_000 * 3074
    assert set(SOURCES) == set(DATASETS)
    assert all(len(source.md5) == 32 and source.num_bytes > 160e6 for source in SOURCES.values())


# What does not arrive


def refused(words: str, **arguments: object) -> str:
    """The message of a fetch of ``toy`` that must fail: one short text that says these words."""
    with pytest.raises(ExitLensError, match=words) as raised:
        fetch("toy", **arguments)  # type: ignore[arg-type]
    message = str(raised.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_truncated_download_says_how_far_it_came_and_leaves_nothing(toy: Served, tmp_path: Path) -> None:
    # Mutant: the end of the body taken for the end of the archive.
    toy.body = GOOD[:-100]
    refused(rf"ended after {len(GOOD) - 100:,} of {len(GOOD):,} bytes", root=tmp_path / "data")
    assert everything_below(tmp_path / "data") == []


def test_truncated_download_of_unknown_length_fails_its_checksum(toy: Served, tmp_path: Path) -> None:
    # Mutant: no checksum where the server names no length.
    toy.body, toy.claims_length = GOOD[:-100], None
    refused(hashlib.md5(GOOD[:-100]).hexdigest(), root=tmp_path / "data")
    assert everything_below(tmp_path / "data") == []


def test_download_of_another_archive_names_both_checksums(toy: Served, tmp_path: Path) -> None:
    # Mutant: a checksum that is computed and not compared; or one wrong pixel let through.
    toy.body = bytearray(GOOD)
    toy.body[-9] ^= 1
    message = refused(hashlib.md5(toy.body).hexdigest(), root=tmp_path / "data")
    assert SOURCES["toy"].md5 in message and "--any-checksum" not in message
    assert everything_below(tmp_path / "data") == []


def unresolved(*_: object, **__: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


def test_without_internet_one_sentence_says_what_to_do(
    toy: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: the URLError let through, or its "<urlopen error [Errno -2] ...>" shown.
    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    monkeypatch.setitem(SOURCES, "toy", replace(SOURCES["toy"], address="http://toy.example/toy.tar.gz"))
    message = refused(r"\(Name or service not known\)", root=tmp_path)
    assert "urlopen" not in message and "data fetch toy --from FILE" in message and "toy.tar.gz" in message


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://127.0.0.1:1/toy.tar.gz", "refused"),
        ("http://", "no host given"),
        ("http://[::1/toy.tar.gz", "Invalid IPv6"),
        ("http://127.0.0.1:port/", "port"),
        ("ftp://127.0.0.1/toy.tar.gz", "there is no such file"),
    ],
)
def test_address_that_leads_nowhere_is_one_sentence(toy: Served, tmp_path: Path, address: str, words: str) -> None:
    # Mutant: only URLError caught; urllib raises ValueError and HTTPException too. Or other schemes tried.
    assert address in refused(words, origin=address, root=tmp_path)


def test_page_in_the_place_of_the_archive_is_named_by_its_status(toy: Served, tmp_path: Path) -> None:
    # Mutant: the error page stored as the archive.
    toy.status = 404
    refused("404", root=tmp_path)


def test_server_that_falls_silent_is_given_up(toy: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: no time-out, and the fetch waits for ever.
    monkeypatch.setattr(sources, "TIMEOUT_SECONDS", 0.2)
    silence = threading.Event()
    toy.in_the_middle = lambda: silence.wait(20)
    refused("timed out", root=tmp_path / "data")
    silence.set()
    assert everything_below(tmp_path / "data") == []


def test_silence_does_not_keep_anybody_from_cancelling(toy: Served, tmp_path: Path) -> None:
    # Mutant: a token looked at between chunks alone, and half a minute until a server is given up.
    silence, token, started = threading.Event(), threading.Event(), time.monotonic()
    # Set once all that was sent has been taken, so that no chunk brings the token to anybody's mind.
    toy.in_the_middle = lambda: (silence.wait(1), token.set(), silence.wait(20))
    with pytest.raises(Cancelled):
        fetch("toy", root=tmp_path / "data", cancel=token)
    silence.set()
    assert time.monotonic() - started < 10
    assert everything_below(tmp_path / "data") == []


def test_what_a_killed_fetch_left_is_swept_after_a_day(toy: Served, tmp_path: Path) -> None:
    # Mutant: archives that stay for good; the folder of a fetch that runs removed under it.
    old, running = (tmp_path / f"data/toy/.fetch-{name}" for name in ("old", "running"))
    for folder in (old, running):
        folder.mkdir(parents=True)
        (folder / "archive").write_bytes(b"half")
        os.utime(folder, (0, 0))
    os.utime(old / "archive", (0, 0))
    fetch("toy", root=tmp_path / "data")
    assert not old.exists() and running.exists()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 302 x\r\nLocation: /toy.tar.gz\r\n\r\n", b"garbage\r\nmore\r\n" * 99])
def test_server_that_answers_strangely_is_one_sentence(answer: bytes, tmp_path: Path, toy: Served) -> None:
    # Mutant: lines of the server's own words passed on, at any length.
    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(answer)

    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as strange:
        thread = threading.Thread(target=strange.serve_forever, args=(0.02,))
        thread.start()
        message = refused(
            "check the connection", origin=f"http://127.0.0.1:{strange.server_address[1]}/", root=tmp_path
        )
        strange.shutdown()
        thread.join()
    assert "check the connection" in message


def test_server_that_never_ends_is_cut_off(toy: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: no bound, and the disk fills.
    monkeypatch.setattr(sources, "MAX_ARCHIVE_BYTES", len(GOOD) // 2)
    refused("sends more than", root=tmp_path / "data")
    assert everything_below(tmp_path / "data") == []


@pytest.mark.parametrize("when", ["downloading", "storing"])
def test_cancelled_fetch_leaves_nothing(toy: Served, tmp_path: Path, when: str) -> None:
    # Mutant: a token looked at while downloading alone, or unfinished files that stay.
    token = threading.Event()
    with pytest.raises(Cancelled):
        fetch(
            "toy",
            root=tmp_path / "data",
            cancel=token,
            on_progress=lambda progress: token.set() if progress.words.startswith(when) else None,
        )
    assert token.is_set() and everything_below(tmp_path / "data") == []


def test_unknown_name_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    # Mutant: a KeyError.
    with pytest.raises(ExitLensError, match=r"'mnist'.*cifar10, cifar100, tiny-imagenet"):
        fetch("mnist", root=tmp_path)


# Archives of one's own


def test_archive_in_a_file_needs_no_server(toy: Served, tmp_path: Path) -> None:
    # Mutant: the official address asked all the same.
    fetch("toy", saved(GOOD, tmp_path), tmp_path / "data")
    assert torch.equal(open_image_set("toy:test", tmp_path / "data").images, TEST.images) and toy.asked == []
    assert Path(saved(GOOD, tmp_path)).read_bytes() == GOOD


def test_archive_packed_anew_is_taken_only_on_request(toy: Served, tmp_path: Path) -> None:
    # Mutants: the checksum of files not looked at; or a request for any checksum without an archive of one's own.
    anew = saved(tar(dict(reversed(cifar_members().items()))), tmp_path)
    assert "--any-checksum" in refused("the official toy.tar.gz has", origin=anew, root=tmp_path / "data")
    refused("Name it with --from", any_checksum=True, root=tmp_path / "data")
    fetch("toy", anew, tmp_path / "data", any_checksum=True)
    assert torch.equal(open_image_set("toy:test", tmp_path / "data").images, TEST.images)


@pytest.mark.parametrize("origin", ["nothing-here", ".", "~nobody-of-this-name/x", "a\0b"])
def test_file_that_cannot_be_read_is_named(toy: Served, tmp_path: Path, origin: str) -> None:
    # Mutant: the error of ``open`` let through, or a folder opened.
    refused("Cannot read", origin=origin, root=tmp_path)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def without(name: str) -> dict[str, bytes]:
    return {member: content for member, content in cifar_members().items() if member != name}


WRONG_LABEL = bytearray(cifar_members()["toy-bin/test.bin"])
WRONG_LABEL[193] = 4
WRONG_ARCHIVES = {
    "no archive": (b"<html>Not here any more</html>", "damaged or of another kind"),
    "empty": (b"", "damaged or of another kind"),
    "truncated": (GOOD[: len(GOOD) // 2], "damaged or of another kind"),
    "no test images": (tar(without("toy-bin/test.bin")), "holds no toy-bin/test.bin"),
    "symbolic link": (tar(without("toy-bin/test.bin"), link("toy-bin/test.bin", "/etc/passwd")), "not a file of"),
    "hard link": (
        tar(without("toy-bin/test.bin"), link("toy-bin/test.bin", "toy-bin/batch_1.bin", tarfile.LNKTYPE)),
        "not a file of",
    ),
    "a byte too few": (tar({**cifar_members(), "toy-bin/test.bin": b"\0" * (NUM_TEST * 193 - 1)}), "not a file of"),
    "a byte too many": (tar({**cifar_members(), "toy-bin/test.bin": b"\0" * (NUM_TEST * 193 + 1)}), "not a file of"),
    "wrong label": (tar({**cifar_members(), "toy-bin/test.bin": bytes(WRONG_LABEL)}), "label 4.*labels 0 to 3"),
}


@pytest.mark.parametrize("case", WRONG_ARCHIVES)
def test_archive_with_other_contents_is_refused(toy: Served, tmp_path: Path, case: str) -> None:
    # Mutant: any one check of the reader dropped; or links followed, as tarfile does by itself.
    content, words = WRONG_ARCHIVES[case]
    refused(words, origin=saved(content, tmp_path), root=tmp_path / "data", any_checksum=True)
    assert everything_below(tmp_path / "data") == []


def test_members_that_point_elsewhere_write_nothing_there(toy: Served, tmp_path: Path) -> None:
    # Mutant: ``extractall``, or members written under their own names.
    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    odd = {"../../evil": b"1", str(tmp_path / "evil"): b"2", "toy-bin/../../../evil": b"3"}
    content = tar({**odd, **cifar_members()}, link("toy-bin/up", "../.."), link("toy-bin/up/evil", "x"))
    fetch("toy", saved(content, deep), deep / "data", any_checksum=True)
    assert everything_below(deep / "data") == ["toy", "toy/test.parquet", "toy/train.parquet"]
    assert not [name for name in everything_below(tmp_path) if "evil" in name]


WRONG_TINY: dict[str, tuple[dict[str, bytes | None], str]] = {
    "no classes": ({"wnids.txt": None}, r"holds no tiny-imagenet-200/wnids\.txt"),
    "a class too few": ({"wnids.txt": b"n01\nn02\nn03"}, "names 3 classes, not 4"),
    "a training image missing": ({"train/n02/images/n02_3.JPEG": None}, "9 training images of class n02, not 10"),
    "a test image missing": ({"val/images/val_3.JPEG": None}, r"holds no .*val_3\.JPEG"),
    "a test label missing": ({"val/val_annotations.txt": b"val_0.JPEG\tn01\n"}, "classes of 1 images"),
    "another size": ({"val/images/val_3.JPEG": jpeg(3, size=9)}, "9x9"),
    "no picture": ({"train/n02/images/n02_3.JPEG": b"GIF89a"}, "not a readable image"),
}


@pytest.mark.usefixtures("toy_tiny")
@pytest.mark.parametrize("case", WRONG_TINY)
def test_tiny_imagenet_with_other_contents_is_refused(tmp_path: Path, case: str) -> None:
    # Mutant: any one check of the reader dropped.
    changes, words = WRONG_TINY[case]
    members = {name: content for name, content in {**tiny_members(), **changes}.items() if content is not None}
    refused(words, origin=saved(tiny(members), tmp_path), root=tmp_path / "data", any_checksum=True)
    assert everything_below(tmp_path / "data") == []


@pytest.mark.usefixtures("toy_tiny")
def test_member_that_inflates_without_end_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: ``ZipFile.read``, which takes as much memory as the member asks for.
    monkeypatch.setattr("core.archives._MAX_TINY_MEMBER_BYTES", 5000)
    members = {**tiny_members(), "val/images/val_3.JPEG": b"\0" * 1_000_000}
    refused("larger than any", origin=saved(tiny(members), tmp_path), root=tmp_path / "data", any_checksum=True)


@pytest.mark.parametrize("seed", range(20))
def test_damage_at_random_places_gives_a_data_set_or_the_projects_error(
    toy: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # Mutant: any one kind of error that tarfile or zipfile raise taken from those that are caught.
    chance = random.Random(seed)
    good = GOOD if seed % 2 else tiny(tiny_members())
    if not seed % 2:
        monkeypatch.setitem(SOURCES, "toy", replace(SOURCES["toy"], read=read_tiny_imagenet))
    content = bytearray(good)
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    try:
        fetch("toy", saved(bytes(content), tmp_path), tmp_path / "data", any_checksum=True)
    except ExitLensError:
        assert everything_below(tmp_path / "data") == []


# Where it goes


def test_without_a_data_root_it_goes_where_the_data_root_is_looked_for(toy: Served, home: Path) -> None:
    # Mutant: written where ``open_image_set`` does not look.
    assert data_root() is None
    fetch("toy")
    assert data_root() == home / ".cache/exitlens/data"
    assert torch.equal(open_image_set("toy:test").images, TEST.images)


def test_data_root_that_is_no_folder_is_not_made(toy: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: a mistyped EXITLENS_DATA filled with gigabytes, or the default taken instead.
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "mistyped"))
    refused("EXITLENS_DATA is .*mistyped")
    assert everything_below(tmp_path) == []


def test_complete_data_set_is_left_alone(toy: Served, tmp_path: Path) -> None:
    # Mutant: overwritten, or downloaded before anybody looks.
    fetch("toy", root=tmp_path)
    (tmp_path / "toy/train.parquet").touch()
    before = (tmp_path / "toy/train.parquet").stat().st_mtime_ns
    toy.asked.clear()
    refused("holds toy already.*move that folder away", root=tmp_path)
    assert (tmp_path / "toy/train.parquet").stat().st_mtime_ns == before and toy.asked == []


def test_split_that_is_there_is_kept_and_the_other_one_brought(
    toy: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Mutant: both written; or a copy in the hub's sub-folder not seen.
    own = write_hub_parquet(tmp_path / "toy/data/test-00000-of-00001.parquet", TEST.images[:5], [0] * 5, None)
    content = own.read_bytes()
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    assert "toy" in missing_data_sets()
    fetched = fetch("toy")
    assert fetched.written == {"train": NUM_TRAIN} and fetched.kept == ("test",)
    assert own.read_bytes() == content and not (tmp_path / "toy/test.parquet").exists()
    assert torch.equal(open_image_set("toy:validation").images, TRAIN.images[32:])
    assert "toy" not in missing_data_sets()


def test_damaged_file_is_replaced(toy: Served, tmp_path: Path) -> None:
    # Mutant: whatever is there kept.
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/test.parquet").write_bytes(b"PAR1 half a file")
    fetch("toy", root=tmp_path)
    assert len(open_image_set("toy:test", tmp_path)) == NUM_TEST


def test_failed_fetch_leaves_what_was_there(toy: Served, tmp_path: Path) -> None:
    # Mutant: the folder of the data set removed with the unfinished files.
    fetch("toy", root=tmp_path)
    (tmp_path / "toy/train.parquet").unlink()
    toy.body = GOOD[:-100]
    refused("ended after", root=tmp_path)
    assert everything_below(tmp_path) == ["toy", "toy/test.parquet"]


@pytest.mark.parametrize("from_file", [False, True])
def test_full_disk_is_one_sentence_and_leaves_nothing(toy: Served, tmp_path: Path, from_file: bool) -> None:
    # Mutant: the OSError let through, of the download or of pyarrow; or its half of a file left.
    origin = saved(GOOD, tmp_path) if from_file else None
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        refused("Cannot write to .*File too large.*Make room", origin=origin, root=tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert everything_below(tmp_path / "data") == []


def test_place_that_cannot_be_written_is_named_before_the_download(toy: Served, tmp_path: Path) -> None:
    # Mutant: found out after a quarter of an hour.
    (tmp_path / "toy").write_text("a file")
    refused(f"Cannot write to {tmp_path / 'toy'}", root=tmp_path)
    assert toy.asked == [] and (tmp_path / "toy").read_text() == "a file"


# The command


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["core", "data", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_command_says_where_the_images_are_and_then_lists_them(
    toy: Served, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutant: ``data`` alone no longer lists, or lists after every fetch.
    status, out, _ = command(monkeypatch, capsys, "fetch", "toy")
    assert status == 0
    assert out == f"Wrote 40 train images and 12 test images of toy to {home / '.cache/exitlens/data/toy'}.\n"
    assert "toy:test                 12 images" in command(monkeypatch, capsys)[1]


@pytest.mark.parametrize("words", [("mnist",), ("toy", "--any-checksum"), ("toy", "--from", "nothing-here")])
def test_command_fails_in_one_line(
    toy: Served, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutant: a progress bar before an error that needs none, or a traceback.
    status, out, err = command(monkeypatch, capsys, "fetch", *words)
    assert status == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1


def test_interrupted_command_leaves_nothing(
    toy: Served, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Mutant: a token that the fetch does not get.
    toy.in_the_middle = lambda: os.kill(os.getpid(), signal.SIGINT)
    status, _, err = command(monkeypatch, capsys, "fetch", "toy")
    assert status == 130 and err.endswith("Cancelled; nothing was written.\n")
    assert not list(home.rglob("*.parquet"))


# The button


@pytest.fixture
def page(toy: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    """A page of the fetch buttons alone, visited from the machine itself."""
    import streamlit as st

    from ui import controls

    st.cache_data.clear()
    st.cache_resource.clear()
    monkeypatch.setitem(controls.DATASET_LABELS, "toy", "Toy")
    (tmp_path / "data").mkdir()
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path / "data"))

    def script() -> None:
        from ui import fetching

        fetching.fetch_controls()

    visit(monkeypatch, "127.0.0.1", {}, None)
    test = AppTest.from_function(script, default_timeout=30)
    test.context = dict(LOCAL)
    return test


def labels(test: AppTest) -> list[str]:
    assert not test.exception
    return [button.label for button in test.button]


def until(test: AppTest, is_so: Callable[[], bool]) -> None:
    """Reruns as a browser does while something is under way."""
    for _ in range(200):
        if is_so():
            return
        time.sleep(0.05)
        test.run()
    raise AssertionError("The page never came to it.")


def test_button_brings_the_data_set_and_goes(page: AppTest, tmp_path: Path) -> None:
    # Mutant: a list of missing data sets that stays cached after the fetch.
    assert "Fetch Toy (0 MB)" in labels(page.run()) and "Fetch CIFAR-100 (169 MB)" in labels(page)
    page.button(key="fetch-toy").click().run()
    until(page, lambda: "Fetch Toy (0 MB)" not in labels(page) and "Cancel" not in labels(page))
    assert torch.equal(open_image_set("toy:test").images, TEST.images)
    (tmp_path / "data/toy/train.parquet").unlink()
    import streamlit as st

    st.cache_data.clear()  # as half a minute does
    page.run()
    assert "Fetch Toy (0 MB)" in labels(page)
    page.button(key="fetch-toy").click().run()  # a new job, not the old one's result
    until(page, lambda: (tmp_path / "data/toy/train.parquet").exists())


def test_failed_fetch_says_why_and_can_be_tried_again(page: AppTest, toy: Served) -> None:
    # Mutant: an error that ends the page, or that is lost.
    toy.body = GOOD[:-100]
    page.run().button(key="fetch-toy").click().run()
    until(page, lambda: bool(page.error))
    assert "ended after" in page.error[0].value and "Fetch Toy (0 MB)" in labels(page)
    toy.body = GOOD
    page.button(key="fetch-toy").click().run()
    until(page, lambda: "Fetch Toy (0 MB)" not in labels(page) and "Cancel" not in labels(page))
    assert not page.error


def test_fetch_can_be_cancelled_on_the_page(page: AppTest, toy: Served, tmp_path: Path) -> None:
    # Mutant: a Cancel button whose token the fetch does not get.
    gate = threading.Event()
    toy.in_the_middle = lambda: gate.wait(20)
    page.run().button(key="fetch-toy").click().run()
    page.button(key="cancel-fetch-toy").click().run()
    gate.set()
    until(page, lambda: "Fetch Toy (0 MB)" in labels(page))
    assert not page.error and everything_below(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("address", "url", "headers", "ip"),
    [
        ("127.0.0.1", "http://lab.example:8501", {}, None),
        ("127.0.0.1", None, {}, None),
        ("127.0.0.1", "http://localhost.example:8501", {}, None),
        ("127.0.0.1", "http://[::1", {}, None),
        ("127.0.0.1", "http://localhost:8501", {"Host": "lab.example"}, None),
        ("127.0.0.1", "http://localhost:8501", {"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}, None),
        ("127.0.0.1", "http://localhost:8501", {}, "192.0.2.7"),
        (None, "http://localhost:8501", {}, None),
        ("0.0.0.0", "http://localhost:8501", {}, None),
        ("192.0.2.1", "http://localhost:8501", {}, None),
    ],
)
def test_visitors_from_elsewhere_are_offered_nothing(
    address: str | None,
    url: str | None,
    headers: dict[str, str],
    ip: str | None,
    page: AppTest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Mutant: any one condition dropped, or a comparison by prefix.
    import streamlit as st

    visit(monkeypatch, "127.0.0.1", {"Host": "localhost:8501"}, "127.0.0.2")
    assert labels(page.run())
    visit(monkeypatch, address, headers, ip)
    page.context = {"url": url} if url else {}
    assert labels(page.run()) == [] and not page.subheader and not page.caption
    assert st.get_option("server.address") == address


def visit(monkeypatch: pytest.MonkeyPatch, address: str | None, headers: dict[str, str], ip: str | None) -> None:
    """Where the server listens, and what the connection says of the visitor."""
    import streamlit as st

    option = st.get_option
    monkeypatch.setattr(st, "get_option", lambda key: address if key == "server.address" else option(key))
    monkeypatch.setattr(type(st.context), "headers", headers)
    monkeypatch.setattr(type(st.context), "ip_address", ip)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "::1"])
def test_loopback_has_many_names(host: str) -> None:
    # Mutant: 127.0.0.1 alone.
    from ui.fetching import is_loopback

    assert is_loopback(host)


@pytest.mark.skipif(not list_models(), reason="checkpoints/ holds no model")
def test_home_offers_the_missing_data_sets_on_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Mutant: Home without the buttons, or with them for everyone.
    import streamlit as st

    st.cache_data.clear()
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    test = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120)
    test.context = {"url": "http://lab.example"}
    visit(monkeypatch, "127.0.0.1", {}, None)
    assert not [label for label in labels(test.run()) if label.startswith("Fetch")]
    test.context = dict(LOCAL)
    assert len([label for label in labels(test.run()) if label.startswith("Fetch")]) == len(SOURCES)
