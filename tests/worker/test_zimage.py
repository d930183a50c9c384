"""The real engine in this process, against the same pipelines used by hand, and with failures put into them.

Out of memory and a lost device cannot be had on demand: for those, and only for those, the pipeline's
own call or the decoder's is replaced by one that raises what torch would raise.
"""

from __future__ import annotations

import gc
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from zimage_worker.engines import EngineBroken, Stopped
from zimage_worker.errors import BadRequest, GenerationFailed, OutOfMemory
from zimage_worker.images import Edit, ImageOrder, Picture, Step

ORDER = ImageOrder(
    prompt="a red fox", negative_prompt="", width_px=64, height_px=96, images=1, steps=4, guidance_scale=0.0, seed=None,
    format="png", compression=None, bare=False, stream=False, partial_images=0, progress=False,
)  # fmt: skip


class Setup:
    """An engine, what it counted, and the tools to look inside."""

    def __init__(self, model: Path) -> None:
        import torch
        from diffusers import ZImagePipeline

        from zimage_worker.engines.zimage import ZImageEngine

        torch.set_num_threads(1)
        self.torch = torch
        self.counted: Counter[str] = Counter()
        self.pipeline = ZImagePipeline.from_pretrained(str(model), dtype=torch.bfloat16, local_files_only=True)
        self.make = lambda: ZImageEngine(self.pipeline, "cpu", lambda event: self.counted.update([event]))
        self.engine = self.make()

    def picture(self, order: ImageOrder, seed: int = 3) -> Image.Image:
        return self.engine.generate(order, seed, threading.Event(), lambda _progress: None).pictures[0].image

    def options(self, order: ImageOrder, seed: int) -> dict[str, Any]:
        return {
            "prompt": [order.prompt], "num_inference_steps": order.steps, "guidance_scale": order.guidance_scale,
            "negative_prompt": [order.negative_prompt] if order.negative_prompt else None,
            "generator": [self.torch.Generator("cpu").manual_seed(seed)], "max_sequence_length": 512,
        }  # fmt: skip


@pytest.fixture(scope="module")
def setup(tiny_model: Path) -> Setup:
    return Setup(tiny_model)


@pytest.fixture
def fresh(setup: Setup):
    """An engine without memories."""
    setup.engine = setup.make()
    setup.counted.clear()
    return setup


def drawing() -> Image.Image:
    image = Image.new("RGB", (64, 96), "navy")
    ImageDraw.Draw(image).ellipse((8, 8, 56, 88), fill="orange")
    return image


def mask() -> Image.Image:
    image = Image.new("L", (64, 96), 0)
    ImageDraw.Draw(image).rectangle((0, 0, 63, 47), fill=255)
    return image


GUIDED = replace(ORDER, guidance_scale=4.0, negative_prompt="blue")


@pytest.mark.parametrize("order", [ORDER, GUIDED, replace(GUIDED, negative_prompt=""), replace(ORDER, steps=1)])
def test_the_bytes_are_those_of_bare_diffusers(setup, order: ImageOrder) -> None:
    options = setup.options(order, 3)
    bare = setup.pipeline(width=64, height=96, **options).images[0]
    assert setup.picture(order).tobytes() == bare.tobytes()


@pytest.mark.parametrize("order", [ORDER, GUIDED])
def test_an_edit_without_a_mask_is_img2img(setup, order: ImageOrder) -> None:
    edit = Edit(drawing(), None, 0.6)
    bare = setup.engine.img2img(image=drawing(), strength=0.6, **setup.options(order, 3)).images[0]
    made = setup.picture(replace(order, edit=edit))
    assert made.tobytes() == bare.tobytes()
    assert made.tobytes() != setup.picture(order).tobytes()


def test_an_edit_with_a_mask_is_inpaint_and_keeps_every_pixel_outside(setup) -> None:
    edit = Edit(drawing(), mask(), 1.0)
    bare = setup.engine.inpaint(image=drawing(), mask_image=mask(), strength=1.0, **setup.options(ORDER, 3)).images[0]
    made = setup.picture(replace(ORDER, edit=edit))
    upper, lower = (0, 0, 64, 48), (0, 48, 64, 96)
    assert made.crop(upper).tobytes() == bare.crop(upper).tobytes()
    assert made.crop(lower).tobytes() == drawing().crop(lower).tobytes()
    assert made.crop(upper).tobytes() != drawing().crop(upper).tobytes()


@pytest.mark.parametrize("strength", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_any_strength_leaves_a_step(setup, strength: float, steps: int) -> None:
    assert setup.picture(replace(ORDER, steps=steps, edit=Edit(drawing(), None, strength)))


def test_three_pipelines_share_one_set_of_weights(setup) -> None:
    for name, component in setup.pipeline.components.items():
        assert setup.engine.img2img.components[name] is component
        assert setup.engine.inpaint.components[name] is component


TEXTS = ["", "a", "ein Fuchs im Schnee", "狐狸" * 40, "🦊" * 60, "x " * 230, "y" * 900]


@pytest.mark.parametrize("text", TEXTS)
def test_a_remembered_embedding_is_the_pipeline_s_own_to_the_bit(fresh, text: str) -> None:
    order = replace(ORDER, prompt=text)
    padded = 512 if fresh.engine.weigh(order) <= 512 else 1024
    with fresh.torch.inference_mode():
        first, again = fresh.engine.prompts.embeddings(order)[0], fresh.engine.prompts.embeddings(order)[0]
        theirs = fresh.pipeline.encode_prompt([text], max_sequence_length=padded, do_classifier_free_guidance=False)
    assert fresh.torch.equal(first, theirs[0][0])
    assert fresh.torch.equal(first, again)
    assert fresh.counted == {"embedding_miss": 1, "embedding_hit": 1}


def test_a_prompt_is_read_once_and_the_picture_is_the_same(fresh, monkeypatch) -> None:
    first = fresh.picture(GUIDED)
    assert fresh.counted == {"embedding_miss": 2}
    monkeypatch.setattr(fresh.engine.prompts, "encoded", None)
    assert fresh.picture(GUIDED).tobytes() == first.tobytes()
    assert fresh.counted == {"embedding_miss": 2, "embedding_hit": 2}


def test_the_cache_is_bounded_in_bytes(fresh) -> None:
    prompts = fresh.engine.prompts
    prompts.longest_bytes = 3 * 40 * 64 * 2
    with fresh.torch.inference_mode():
        for number in range(50):
            prompts.embedding(f"prompt {number}")
            assert prompts.held_bytes == sum(kept.nbytes for kept in prompts.known.values()) <= prompts.longest_bytes
        assert "prompt 49" in prompts.known
        prompts.longest_bytes = 0
        assert len(prompts.embedding("larger than the cache"))
    assert (prompts.held_bytes, len(prompts.known)) == (0, 0)


def test_tokens_are_counted_and_too_many_are_refused_before_the_queue(fresh) -> None:
    few, more = fresh.engine.weigh(ORDER), fresh.engine.weigh(replace(ORDER, prompt="a red fox in the snow"))
    assert 0 < few < more
    assert fresh.engine.weigh(replace(GUIDED, negative_prompt="")) > few
    # Not read without guidance, so not counted.
    assert fresh.engine.weigh(replace(ORDER, negative_prompt="blue")) == few
    with pytest.raises(BadRequest) as caught:
        fresh.engine.weigh(replace(ORDER, prompt="狐" * 1500))
    assert caught.value.param == "prompt"


def test_usage_is_what_the_encoder_really_reads(fresh, monkeypatch) -> None:
    """Counted where the ids arrive, padding aside."""
    read: list[int] = []
    encoder = fresh.pipeline.text_encoder
    forward = encoder.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        read.append(int(kwargs["attention_mask"].sum()))
        return forward(*args, **kwargs)

    monkeypatch.setattr(encoder, "forward", counting)
    for order in (ORDER, GUIDED):
        fresh.engine.prompts.known.clear()
        read.clear()
        fresh.picture(order)
        assert fresh.engine.weigh(order) == sum(read)


def test_the_start_makes_a_picture_for_nobody(tiny_model: Path) -> None:
    from zimage_worker.engines import zimage

    told: list[str] = []
    engine = zimage.load(tiny_model, "cpu", None, 64, 4096, lambda _event: None, told.append)
    assert told == ["load", "warm-up"]
    assert engine.warmed
    order, made = engine.warmed
    assert (order.size, len(made.steps_seconds), made.pictures[0].image.size) == ("64x64", 2, (64, 64))
    assert {parameter.dtype for parameter in engine.pipeline.transformer.parameters()} == {engine_dtype()}


def engine_dtype() -> Any:
    import torch

    return torch.bfloat16


def test_a_stopped_run_decodes_nothing(fresh, monkeypatch) -> None:
    stop = threading.Event()
    told: list[Any] = []

    def tell(progress: Any) -> None:
        told.append(progress)
        if progress.step == 2:
            stop.set()

    monkeypatch.setattr(fresh.pipeline.vae, "decode", None)
    with pytest.raises(Stopped):
        fresh.engine.generate(ORDER, 3, stop, tell)
    assert [(each.step, each.steps) for each in told] == [(1, 4), (2, 4)]
    monkeypatch.undo()
    assert fresh.picture(ORDER)


def test_what_a_run_tells(fresh) -> None:
    told: list[Any] = []
    order = replace(ORDER, images=2, partial_images=2)
    fresh.engine.generate(order, 3, threading.Event(), told.append)
    assert [type(each) for each in told] == [Step, Step, Step, Step, Picture] * 2
    previews = [each for each in told if isinstance(each, Step) and each.preview]
    assert [(each.image, each.step, each.partial) for each in previews] == [(0, 1, 0), (0, 3, 1), (1, 1, 0), (1, 3, 1)]
    assert {each.preview.size for each in previews} == {(8, 12)}


def test_a_preview_shows_where_the_run_is_heading(setup) -> None:
    """With σ from 1 to 0 and a straight way, two points give the end exactly."""
    from zimage_worker.engines.previews import foreseen, preview

    class Scheduler:
        sigmas = setup.torch.tensor([1.0, 0.75, 0.5, 0.0])
        step_index = 2

    end, noise = setup.torch.full((1, 16, 2, 2), 0.4), setup.torch.randn(1, 16, 2, 2)
    before, now = 0.25 * end + 0.75 * noise, 0.5 * end + 0.5 * noise
    assert setup.torch.allclose(foreseen(before, now, Scheduler), end, atol=1e-5)
    assert len(set(preview(end).get_flattened_data())) == 1


class Failing:
    """Raises what it is given, as often as it is told, then does what it replaces."""

    def __init__(self, real: Any, error: Exception, times: int) -> None:
        self.real, self.error, self.times = real, error, times

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.times > 0:
            self.times -= 1
            raise self.error
        return self.real(*args, **kwargs)


def failing_pipeline(setup: Setup, monkeypatch: Any, error: Exception, times: int) -> None:
    monkeypatch.setattr(setup.engine, "called", Failing(setup.engine.called, error, times))


def test_out_of_memory_once_is_tried_again_and_gives_the_same_picture(fresh, monkeypatch) -> None:
    expected = fresh.picture(ORDER)
    failing_pipeline(fresh, monkeypatch, fresh.torch.OutOfMemoryError("CUDA out of memory."), 1)
    assert fresh.picture(ORDER).tobytes() == expected.tobytes()
    assert fresh.counted["oom_retry"] == 1


def test_out_of_memory_in_the_decoder_is_decoded_in_tiles_without_new_steps(fresh, monkeypatch) -> None:
    tiling: list[bool] = []
    vae = fresh.pipeline.vae
    real = vae.decode

    def decode(*args: Any, **kwargs: Any) -> Any:
        tiling.append(vae.use_tiling)
        if len(tiling) == 1:
            raise fresh.torch.OutOfMemoryError("CUDA out of memory.")
        return real(*args, **kwargs)

    monkeypatch.setattr(vae, "decode", decode)
    told: list[Any] = []
    fresh.engine.generate(ORDER, 3, threading.Event(), told.append)
    assert tiling == [False, True]
    assert not vae.use_tiling
    assert len(told) == 5
    assert fresh.counted["oom_tiled"] == 1


def test_out_of_memory_twice_refuses_this_size_for_a_while_and_serves_the_next(fresh, monkeypatch) -> None:
    error = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    failing_pipeline(fresh, monkeypatch, error, 2)
    large = replace(ORDER, width_px=128)
    with pytest.raises(OutOfMemory) as caught:
        fresh.picture(large)
    assert (caught.value.status, caught.value.param, caught.value.retry_after_seconds) == (503, "size", 600)
    assert fresh.counted["oom_refused"] == 1
    with pytest.raises(OutOfMemory):
        fresh.engine.weigh(large)
    assert fresh.picture(ORDER)
    fresh.engine.ladder.clock = lambda: 1e12
    assert fresh.engine.weigh(large)


def test_out_of_memory_again_and_again_ends_the_process(fresh, monkeypatch) -> None:
    failing_pipeline(fresh, monkeypatch, fresh.torch.OutOfMemoryError("CUDA out of memory."), 6)
    for _ in range(2):
        with pytest.raises(OutOfMemory):
            fresh.picture(ORDER)
    with pytest.raises(EngineBroken):
        fresh.picture(ORDER)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered", "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)  # fmt: skip
def test_a_lost_device_is_known_by_its_errors(fresh, monkeypatch, message: str) -> None:
    failing_pipeline(fresh, monkeypatch, RuntimeError(message), 1)
    with pytest.raises(EngineBroken):
        fresh.picture(ORDER)
    failing_pipeline(fresh, monkeypatch, fresh.torch.AcceleratorError(message), 1)
    with pytest.raises(EngineBroken):
        fresh.picture(ORDER)


def test_any_other_error_is_one_client_s_misfortune(fresh, monkeypatch) -> None:
    failing_pipeline(fresh, monkeypatch, RuntimeError("shapes do not fit"), 1)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fresh.picture(ORDER)
    assert not isinstance(GenerationFailed("x"), RuntimeError)
    assert fresh.picture(ORDER)


def test_no_collection_looks_at_the_libraries_again_once_the_model_is_loaded(tiny_model: Path) -> None:
    from zimage_worker.engines import zimage

    gc.unfreeze()
    try:
        engine = zimage.load(tiny_model, "cpu", None, 64, 4096, lambda _event: None, lambda _phase: None)
        assert gc.get_freeze_count() > 100_000
        assert len(gc.get_objects()) < 10_000
        assert engine.warmed
    finally:
        gc.unfreeze()
