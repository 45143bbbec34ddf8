"""Showing images to a model: which, in what steps, and what is kept."""

import threading

import pytest
import torch
from toys import toy_image_set, toy_images, toy_model

from core.attacks import PRESETS, attack
from core.errors import Cancelled, ExitLensError
from core.evaluation import EvaluationSpec, evaluate, exit_logits, logits_of
from core.exits import ExitPolicy, confidences, decide
from core.progress import Progress

MODEL = toy_model(num_exits=3, dtype=torch.float32)
IMAGES = toy_image_set(12, split="test")


@pytest.mark.parametrize(
    ("error", "is_lack"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_a_lack_of_memory_is_one_sentence(error, is_lack):
    """Mutant: torch's pages of advice let through, or every error of torch taken for a lack of memory."""
    model, images = toy_model(), toy_images(4)

    class Failing(type(model)):
        def forward(self, images):
            raise error

    model.__class__ = Failing
    labels, spec = torch.zeros(4, dtype=torch.int64), PRESETS["fgsm"](objective="mean")
    for run in (lambda: logits_of(model, images), lambda: attack(model, images, labels, spec, ExitPolicy())):
        with pytest.raises(
            ExitLensError if is_lack else RuntimeError, match="not enough memory" if is_lack else "mat1"
        ):
            run()


def test_an_evaluation_says_of_the_first_images_what_the_logits_say() -> None:
    # Mutant: the last images, all of them, or labels of others.
    done = evaluate(EvaluationSpec("toy", "abc", "toy:test", 7), MODEL, IMAGES)
    logits = exit_logits(MODEL, IMAGES)[:7]
    assert done.labels.tolist() == IMAGES.labels[:7].tolist()
    assert (
        torch.allclose(done.confidence, confidences(logits)) and done.predicted.tolist() == logits.argmax(-1).tolist()
    )
    assert done.right.tolist() == (logits.argmax(-1) == IMAGES.labels[:7, None]).tolist()
    for policy in (ExitPolicy(0.6), ExitPolicy(0.9, "most_confident")):
        kept, fresh = done.decide(policy), decide(logits, policy)
        assert kept.prediction.tolist() == fresh.prediction.tolist()
        assert kept.computed_exit.tolist() == fresh.computed_exit.tolist()


def test_progress_counts_the_images_of_every_batch() -> None:
    # Mutant: batches counted instead of images, so the last and smaller one weighs as much.
    seen: list[Progress] = []
    exit_logits(MODEL, IMAGES, batch_size=5, on_progress=seen.append)
    assert [(progress.share, progress.words) for progress in seen] == [
        (5 / 12, "5 of 12 images"),
        (10 / 12, "10 of 12 images"),
        (1, "12 of 12 images"),
    ]


def test_cancel_ends_it_at_the_next_batch() -> None:
    # Mutant: a token that is looked at once, before the first batch.
    cancel, seen = threading.Event(), []

    def on_progress(progress: Progress) -> None:
        seen.append(progress)
        cancel.set()

    with pytest.raises(Cancelled):
        exit_logits(MODEL, IMAGES, batch_size=5, on_progress=on_progress, cancel=cancel)
    assert len(seen) == 1
