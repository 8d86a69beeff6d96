"""A session reads images: what it gives, what it records, and how each thing that can be wrong is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import asdict, evolve

from dsprof.errors import AttentionUnavailable, DsprofError, ImageUnusable, ModelUnusable
from dsprof.words import DECODE, PREFILL
from dsprof.workloads import __main__ as process
from dsprof.workloads import deepseek_ocr, tiny
from dsprof.workloads.deepseek_ocr import PROMPT, DeepSeekOCRSession, InferenceResult, open_image, run_once
from dsprof.workloads.job import JOB, OUTCOME, Job, Outcome, RequestRecord, read_job, read_outcome, write_json
from dsprof.workloads.timing import RequestTiming, StageTiming
from models import Written, noise, outline, state, torch, transformers, types_of

#: Tokens of the prompt: 144 and a separator for the image, a byte each for "\nFree OCR. ".
PROMPT_TOKENS = 156


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures that differ in what they show, in size and in kind of file."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    picture = noise(120, 90)
    pictures = {
        "white.png": Image.new("RGB", (300, 200), "white"),
        "noise.jpg": picture.convert("RGB"),
        "gray.png": picture,
        "palette.gif": picture.convert("P"),
        "clear.png": picture.convert("RGBA"),
        "deep.png": Image.effect_mandelbrot((60, 60), (-2, -2, 1, 1), 50).convert("I;16"),
    }
    for name, shown in pictures.items():
        shown.save(folder / name)
    return {name: folder / name for name in pictures}


@pytest.fixture(scope="module")
def loaded(tiny_folder: Path) -> DeepSeekOCRSession:
    return DeepSeekOCRSession.from_local(tiny_folder, device="cpu")


@pytest.fixture
def session(loaded: DeepSeekOCRSession) -> Iterator[DeepSeekOCRSession]:
    """A session that has read nothing, of whose model nothing may be left changed."""
    before = state(loaded.model)
    yield evolve(loaded, served=0)
    assert state(loaded.model) == before


# -- what a session gives -------------------------------------------------------------------------------


def test_a_checkpoint_becomes_a_session(loaded: DeepSeekOCRSession) -> None:
    assert type(loaded.model).__name__ == "DeepseekOcr2ForConditionalGeneration"
    assert type(loaded.processor).__name__ == "DeepseekOcr2Processor"
    assert loaded.device == loaded.model.device.type == "cpu"
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert loaded.attention == {"model": "sdpa", "text_config": "sdpa", "vision_config": "sdpa"}
    assert (loaded.modules, loaded.served) == ("none", 0)


def test_one_request_gives_text_tokens_and_times(session: DeepSeekOCRSession, images: dict[str, Path]) -> None:
    result = session.run_inference(images["noise.jpg"], max_new_tokens=9)
    assert type(result) is InferenceResult
    assert len(result.token_ids) == 9
    assert result.text == session.processor.tokenizer.decode(result.token_ids)
    assert result.prompt_tokens == PROMPT_TOKENS
    timing = result.timing
    assert (timing.request, timing.prompt_tokens) == (0, PROMPT_TOKENS)
    assert [(stage.stage, stage.tokens) for stage in timing.stages] == [(PREFILL, PROMPT_TOKENS), (DECODE, 8)]
    assert len(timing.steps_ns) == 8
    assert 0 < sum(stage.duration_ns for stage in timing.stages) <= timing.duration_ns


def test_the_prefill_is_done_once(session: DeepSeekOCRSession, images: dict[str, Path]) -> None:
    """N tokens are N forwards and one look at the image, whatever is timed."""
    calls: list[str] = []
    model = session.model
    hooks = [
        model.register_forward_pre_hook(lambda *_: calls.append("forward")),
        model.model.vision_tower.register_forward_pre_hook(lambda *_: calls.append("look")),
    ]
    try:
        session.run_inference(images["white.png"], max_new_tokens=4)
    finally:
        for hook in hooks:
            hook.remove()
    assert calls == ["look", *["forward"] * 4]


def test_the_image_is_what_the_model_sees(session: DeepSeekOCRSession, images: dict[str, Path]) -> None:
    from PIL import Image

    seen: list[Any] = []
    hook = session.model.model.vision_tower.register_forward_pre_hook(
        lambda module, arguments, keywords: seen.append(keywords.get("pixel_values", *arguments)), with_kwargs=True
    )
    try:
        read = {name: session.run_inference(path, max_new_tokens=8).token_ids for name, path in images.items()}
    finally:
        hook.remove()
    for pixels, path in zip(seen, images.values(), strict=True):
        with Image.open(path) as image:
            shown = session.processor(images=image.convert("RGB"), text=PROMPT, return_tensors="pt")["pixel_values"]
        assert torch.equal(pixels, shown)
    different = {tuple(read[name]) for name in ("white.png", "noise.jpg", "deep.png")}
    assert len(different) == 3
    assert read["gray.png"] == read["palette.gif"] == read["clear.png"]  # one picture in three ways


def test_the_prompt_is_what_the_model_is_asked(session: DeepSeekOCRSession, images: dict[str, Path]) -> None:
    usual = session.run_inference(images["noise.jpg"], max_new_tokens=8)
    other = session.run_inference(images["noise.jpg"], "<image>\nConvert to markdown. ", max_new_tokens=8)
    assert other.prompt_tokens == PROMPT_TOKENS + len("Convert to markdown") - len("Free OCR")
    assert other.token_ids != usual.token_ids


def test_the_same_request_gives_the_same_answer(
    session: DeepSeekOCRSession, images: dict[str, Path], tiny_folder: Path
) -> None:
    another = DeepSeekOCRSession.from_local(tiny_folder, device="cpu")
    built = DeepSeekOCRSession.from_random(device="cpu")
    found = [one.run_inference(images["noise.jpg"], max_new_tokens=8) for one in (session, session, another, built)]
    assert len({(result.text, tuple(result.token_ids)) for result in found}) == 1
    assert [result.timing.request for result in found] == [0, 1, 0, 0]


def test_run_once_gives_the_stages(session: DeepSeekOCRSession, images: dict[str, Path]) -> None:
    stages = run_once(session, images["white.png"], max_new_tokens=3)
    assert [type(stage) for stage in stages] == [StageTiming, StageTiming]
    assert [(stage.stage, stage.request, stage.tokens) for stage in stages] == [
        (PREFILL, 0, PROMPT_TOKENS),
        (DECODE, 0, 2),
    ]
    assert all(stage.duration_ns > 0 for stage in stages)
    assert session.served == 1


def test_ranges_are_opened_where_they_are_asked_for(session: DeepSeekOCRSession, images: dict[str, Path]) -> None:
    domain = Written()
    plain = session.run_inference(images["noise.jpg"], max_new_tokens=3)
    session.domain, session.modules = domain, "stages"
    result = session.run_inference(images["noise.jpg"], max_new_tokens=3)
    assert result.token_ids == plain.token_ids
    stages = [line for line in domain.ranges if "module" not in line and "forward" not in line]
    assert stages == outline(PROMPT_TOKENS, 2, request=1)
    assert "      module:model.vision_tower.sam_encoder" in domain.ranges
    assert not domain.open


def test_a_random_model_is_the_size_and_seed_asked_for(images: dict[str, Path]) -> None:
    read = [
        DeepSeekOCRSession.from_random("tiny", seed, "cpu").run_inference(images["noise.jpg"], max_new_tokens=8)
        for seed in (0, 1)
    ]
    assert read[0].token_ids != read[1].token_ids
    half = DeepSeekOCRSession.from_random(device="cpu", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert len(half.run_inference(images["noise.jpg"], max_new_tokens=3).token_ids) == 3


def test_the_type_of_the_weights_can_be_chosen(tiny_folder: Path, images: dict[str, Path]) -> None:
    session = DeepSeekOCRSession.from_local(tiny_folder, "cpu", dtype="bfloat16")
    assert types_of(session.model) == {torch.bfloat16}
    assert len(session.run_inference(images["noise.jpg"], max_new_tokens=3).token_ids) == 3


# -- attention ------------------------------------------------------------------------------------------


def test_without_a_gpu_attention_is_sdpa(tiny_folder: Path) -> None:
    for choice in (None, False):
        session = DeepSeekOCRSession.from_local(tiny_folder, "cpu", use_flash_attn=choice)
        assert set(session.attention.values()) == {"sdpa"}
        assert session.model.model.language_model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_flash_attention_that_cannot_be_had_is_an_error(
    tiny_folder: Path, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: device == "cpu")
    monkeypatch.setattr("dsprof.workloads.deepseek_ocr.device_named", str)  # there need not be one
    for load in (
        lambda: DeepSeekOCRSession.from_local(tiny_folder, device, use_flash_attn=True),
        lambda: DeepSeekOCRSession.from_random("tiny", 0, device, use_flash_attn=True),
    ):
        with pytest.raises(AttentionUnavailable, match=f"device {device}") as caught:
            load()
        assert caught.value.exit_code == 38
        assert "flash-attn" in caught.value.hint


@pytest.mark.parametrize(
    ("choice", "dtype", "remote", "asked"),
    [
        (None, "bfloat16", False, {"text_config": "flash_attention_2"}),
        (True, "float16", False, {"text_config": "flash_attention_2"}),
        (False, "bfloat16", False, "sdpa"),
        (None, "float32", False, "sdpa"),
        (None, "bfloat16", True, "flash_attention_2"),
        (False, "bfloat16", True, "eager"),
        (None, "float32", True, "eager"),
    ],
)
def test_on_a_gpu_flash_attention_is_taken_where_it_can_be_had(
    choice: bool | None, dtype: str, remote: bool, asked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU here: this is the choice alone."""
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    assert deepseek_ocr.attention_for(choice, "cuda:0", dtype, remote) == asked


def test_what_each_part_resolved_to_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The language model alone is asked for another one, as it is for flash-attention."""
    monkeypatch.setattr(deepseek_ocr, "attention_for", lambda *_, **__: {"text_config": "eager"})
    session = DeepSeekOCRSession.from_random(device="cpu")
    assert session.attention == {"model": "sdpa", "text_config": "eager", "vision_config": "sdpa"}


# -- models that are not to be had ----------------------------------------------------------------------


def unusable(folder: Path, **keywords: Any) -> ModelUnusable:
    """The error that loading the folder gives; its sentence names the folder."""
    with pytest.raises(ModelUnusable) as caught:
        DeepSeekOCRSession.from_local(folder, "cpu", **keywords)
    error = caught.value
    assert error.exit_code == 37
    assert str(folder) in error.message
    assert error.hint
    assert "\n" not in error.message
    return error


@pytest.fixture
def copy(tiny_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to break."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_a_folder_that_is_none_or_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "empty").mkdir()
    for name in ("missing", "file", "empty"):
        assert "no config.json" in unusable(tmp_path / name).message


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe\x00", b"<html>"])
def test_a_configuration_that_is_no_json(copy: Path, text: bytes) -> None:
    (copy / "config.json").write_bytes(text)
    assert "config.json is no JSON" in unusable(copy).message


@pytest.mark.parametrize("text", ["{}", "[]", "null", '{"model_type": "no_such_model"}', '{"model_type": 5}'])
def test_a_configuration_of_no_model(copy: Path, text: str) -> None:
    (copy / "config.json").write_text(text)
    error = unusable(copy)
    assert f"does not load with transformers {transformers.__version__}" in error.message
    assert error.__cause__ is not None


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("hidden_size", "wide", "hidden_size"),
        ("hidden_size", 32, "mismatched"),
        ("hidden_size", -4, "negative dimension"),
        ("num_attention_heads", 0, "zero"),
    ],
)
def test_a_configuration_that_makes_no_sense(copy: Path, part: str, value: Any, said: str) -> None:
    config = json.loads((copy / "config.json").read_text())
    config["text_config"][part] = value
    (copy / "config.json").write_text(json.dumps(config))
    assert said in unusable(copy).message


@pytest.mark.parametrize("kept", [0, 4, 5000, -1])
def test_weights_that_are_cut(copy: Path, kept: int) -> None:
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    error = unusable(copy)
    assert "header" in error.message
    assert type(error.__cause__).__name__ == "SafetensorError"


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_file_that_is_missing(copy: Path, file: str) -> None:
    (copy / file).unlink()
    words = {
        "model.safetensors": "model.safetensors",
        "tokenizer.json": "tokenizer",
        "processor_config.json": "image proc",
    }
    assert words[file] in unusable(copy).message


def test_models_that_read_no_images(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    made = {
        "BertConfig": transformers.BertModel(transformers.BertConfig(vocab_size=30, **small)),
        "ViTConfig": transformers.ViTModel(transformers.ViTConfig(image_size=32, **small)),
        "LlamaConfig": transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=30, **small)),
    }
    for name, model in made.items():
        model.save_pretrained(tmp_path / name)
        assert name in unusable(tmp_path / name).message


def test_what_the_user_does_is_no_error_of_the_model(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        DeepSeekOCRSession.from_local(tiny_folder, "cpu")


# -- images that are none -------------------------------------------------------------------------------


def test_images_that_are_missing_or_none(session: DeepSeekOCRSession, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name, said in (("none.png", "There is no image"), ("text.png", "cannot be read"), ("empty.png", "cannot be")):
        with pytest.raises(ImageUnusable, match=said) as caught:
            session.run_inference(tmp_path / name)
        assert caught.value.exit_code == 36
        assert str(tmp_path / name) in caught.value.message
        assert caught.value.hint
    with pytest.raises(ImageUnusable):
        session.run_inference(tmp_path)
    assert session.served == 0


@pytest.mark.parametrize("name", ["noise.jpg", "gray.png", "palette.gif"])
def test_an_image_cut_anywhere_is_read_or_refused(images: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Whatever the cut makes of the file, no other error comes out."""
    whole, cut = images[name].read_bytes(), tmp_path / name
    size, refused = open_image(images[name]).size, 0
    lengths = [*range(0, min(700, len(whole)), 7), *range(700, len(whole), max(1, len(whole) // 40))]
    for length in lengths:
        cut.write_bytes(whole[:length])
        try:
            assert open_image(cut).size == size
        except ImageUnusable as error:
            assert "cannot be read" in error.message
            refused += 1
    assert refused >= 0.9 * len(lengths)


def test_an_image_is_opened_as_rgb(images: dict[str, Path]) -> None:
    assert {open_image(path).mode for path in images.values()} == {"RGB"}


# -- code that comes with the checkpoint ----------------------------------------------------------------

REMOTE = '''
import os

import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM


class MadeOcrConfig(LlamaConfig):
    model_type = "made_ocr"


class MadeOcrModel(LlamaForCausalLM):
    """Is called as the first DeepSeek-OCR is: with a file, and a limit of its own."""

    config_class = MadeOcrConfig

    def __init__(self, config):
        super().__init__(config)
        self.sam_model = torch.nn.Linear(1, 1)

    def infer(self, tokenizer, prompt="", image_file="", output_path="", base_size=1024, image_size=640,
              crop_mode=True, test_compress=False, save_results=False, eval_mode=False):
        assert (base_size, image_size, crop_mode, save_results, eval_mode) == (1024, 640, True, False, True)
        self.asked = {"prompt": prompt, "image_file": image_file, "output_path": output_path}
        os.makedirs(f"{output_path}/images")
        brightness = sum(Image.open(image_file).convert("L").resize((8, 8)).tobytes()) // 64
        self.sam_model(torch.ones(1, 1))
        ids = torch.tensor([[9 + brightness, *tokenizer(prompt)["input_ids"]]])
        with torch.no_grad():
            output = self.generate(ids, max_new_tokens=8192, do_sample=False, use_cache=True)
        self.limit = output.shape[1] - ids.shape[1]
        return tokenizer.decode(output[0, ids.shape[1]:])
'''


@pytest.fixture
def remote(tmp_path: Path, tiny_model: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made checkpoint with code of its own."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "made_ocr"
    vocabulary = 9 + 256 + 9
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=None, pad_token_id=2, initializer_range=0.5,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    model.sam_model = torch.nn.Linear(1, 1)
    model.save_pretrained(folder)
    tiny_model[1].tokenizer.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "modeling_made_ocr.MadeOcrConfig", "AutoModel": "modeling_made_ocr.MadeOcrModel"}
    written |= {"model_type": "made_ocr", "architectures": ["MadeOcrModel"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(written))
    (folder / "modeling_made_ocr.py").write_text(REMOTE)
    yield folder
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        monkeypatch.delitem(sys.modules, name)


def test_code_of_a_checkpoint_is_not_run_unasked(remote: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (remote / "modeling_made_ocr.py").write_text(f"open({str(ran)!r}, 'w').close()")
    error = unusable(remote)
    assert "code of its own" in error.message
    assert "--trust-remote-code" in error.hint
    assert not ran.exists()
    unusable(remote, trust_remote_code=True)  # where it is run, and holds no model
    assert ran.exists()


def test_trusted_code_reads_images_in_its_own_way(remote: Path, images: dict[str, Path]) -> None:
    session = DeepSeekOCRSession.from_local(remote, "cpu", trust_remote_code=True)
    assert type(session.model).__name__ == "MadeOcrModel"
    assert session.attention == {"model": "eager"}
    before, domain = state(session.model), Written()
    session.domain, session.modules = domain, "stages"
    result = session.run_inference(images["noise.jpg"], "Read. ", max_new_tokens=5)
    prompt = 1 + len("Read. ")
    assert session.model.asked["prompt"] == "Read. "
    assert session.model.asked["image_file"] == str(images["noise.jpg"])
    assert not Path(session.model.asked["output_path"]).exists()  # a folder for that one call
    assert session.model.limit == len(result.token_ids) == 5
    assert result.text == session.processor.decode(result.token_ids)
    assert result.prompt_tokens == prompt
    assert [(stage.stage, stage.tokens) for stage in result.timing.stages] == [(PREFILL, prompt), (DECODE, 4)]
    stages = [line for line in domain.ranges if "module" not in line and "forward" not in line]
    assert stages == outline(prompt, 4)
    assert not domain.open
    again = session.run_inference(images["noise.jpg"], "Read. ", max_new_tokens=3)
    assert (again.token_ids, again.timing.request) == (result.token_ids[:3], 1)
    other = session.run_inference(images["white.png"], "Read. ", max_new_tokens=5)
    assert other.token_ids != result.token_ids
    del session.model.asked, session.model.limit
    assert state(session.model) == before


def test_an_error_in_trusted_code_leaves_nothing_behind(remote: Path, images: dict[str, Path]) -> None:
    session = DeepSeekOCRSession.from_local(remote, "cpu", trust_remote_code=True)
    before, domain = state(session.model), Written()
    session.domain = domain

    def processor(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    session.processor = processor
    with pytest.raises(ZeroDivisionError):
        session.run_inference(images["white.png"])
    assert session.served == 0
    del session.model.asked
    assert state(session.model) == before
    assert not domain.open


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:", "SyntaxError"),
        ("import no_such_package_at_all", "no_such_package_at_all"),
        (REMOTE.replace("class MadeOcrModel", "class Other"), "MadeOcrModel"),
        (REMOTE.replace("def infer", "def read"), "has no infer()"),
        (REMOTE.replace("self.sam_model =", "self.sam_model = 1 / 0 #"), "ZeroDivisionError"),
    ],
)
def test_code_that_is_no_deepseek_ocr(remote: Path, text: str, said: str) -> None:
    (remote / "modeling_made_ocr.py").write_text(text)
    assert said in unusable(remote, trust_remote_code=True).message


# -- the profiled process -------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "session"
    path.mkdir()
    return path


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Written:
    """The domain that the profiled process opens."""
    written = Written()
    monkeypatch.setattr(process, "open_domain", lambda: written)
    return written


def job(*images: Path, **changes: Any) -> Job:
    usual: dict[str, Any] = {"max_new_tokens": 3, "modules": "none", "device": "cpu"}
    return Job(images=tuple(map(str, images)), prompt=PROMPT, **{**usual, **changes})


def run(folder: Path, job: Job) -> tuple[int, Outcome]:
    """The exit code and the outcome of a job that is done in this process."""
    write_json(folder / JOB, job)
    return process.main(folder), read_outcome(folder / OUTCOME)


@pytest.mark.parametrize(
    "made",
    [
        Job(("a.png", "b.png"), "Grüße\n", "full", 7, 2, 0, "all", 3, "cuda", "float16", True, True),
        Job(("a.png",), "Read."),
    ],
)
def test_a_job_comes_back_as_it_was_written(folder: Path, made: Job) -> None:
    write_json(folder / JOB, made)
    assert read_job(folder / JOB) == made


def test_an_outcome_comes_back_as_it_was_written(folder: Path) -> None:
    stages = [StageTiming(PREFILL, 3, 10, 20, 156), StageTiming(DECODE, 3, 30, 40, None)]
    record = RequestRecord("a.png", 156, 2, "Grüße, 你好", RequestTiming(3, None, 10, 60, stages, [5, 6]))
    outcome = Outcome({"torch": "2"}, "cuda", "H200", {"model": "sdpa"}, 7, [record], ["ImageUnusable", "a", "b"])
    write_json(folder / OUTCOME, outcome)
    again = read_outcome(folder / OUTCOME)
    assert again == outcome
    assert type(again.requests[0].timing.stages[1]) is StageTiming
    assert [path.name for path in folder.iterdir()] == [OUTCOME]  # nothing half-written is left
    write_json(folder / OUTCOME, Outcome())
    assert read_outcome(folder / OUTCOME) == Outcome()


def test_each_image_is_read_as_often_as_asked(folder: Path, domain: Written, images: dict[str, Path]) -> None:
    asked = job(images["noise.jpg"], images["white.png"], repeat=2, warmup=3, max_new_tokens=9)
    code, outcome = run(folder, asked)
    assert code == 0
    assert outcome.error == []
    assert [record.image for record in outcome.requests] == ["noise.jpg", "noise.jpg", "white.png", "white.png"]
    assert [record.timing.request for record in outcome.requests] == [0, 1, 2, 3]
    assert domain.ranges == [line for request in range(4) for line in outline(PROMPT_TOKENS, 8, request)]
    texts = [record.text for record in outcome.requests]
    assert (texts[0], texts[2]) == (texts[1], texts[3])
    assert texts[0] != texts[2]
    for record in outcome.requests:
        assert (record.prompt_tokens, record.new_tokens, len(record.timing.steps_ns)) == (PROMPT_TOKENS, 9, 8)


@pytest.mark.parametrize("warmup", [0, 2])
def test_a_warm_up_is_done_and_leaves_no_trace(
    folder: Path, domain: Written, images: dict[str, Path], warmup: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[tuple[str, list[str]]] = []
    original = DeepSeekOCRSession.run_inference

    def run_inference(self: DeepSeekOCRSession, image: Any, *arguments: Any) -> InferenceResult:
        before = len(domain.ranges)
        result = original(self, image, *arguments)
        served.append((Path(image).name, domain.ranges[before:]))
        return result

    monkeypatch.setattr(DeepSeekOCRSession, "run_inference", run_inference)
    code, outcome = run(folder, job(images["white.png"], images["noise.jpg"], warmup=warmup))
    assert code == 0
    assert served[:warmup] == [("white.png", [])] * warmup
    assert [(name, bool(ranges)) for name, ranges in served[warmup:]] == [("white.png", True), ("noise.jpg", True)]
    assert [record.timing.request for record in outcome.requests] == [0, 1]


def test_the_outcome_says_what_ran(folder: Path, domain: Written, images: dict[str, Path], tiny_folder: Path) -> None:
    code, outcome = run(folder, job(images["noise.jpg"], model=str(tiny_folder), modules="stages", max_new_tokens=9))
    assert code == 0
    assert outcome.versions["torch"] == torch.__version__
    assert outcome.versions["transformers"] == transformers.__version__
    assert outcome.versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (outcome.device, outcome.device_name) == ("cpu", "")
    assert outcome.attention == {"model": "sdpa", "text_config": "sdpa", "vision_config": "sdpa"}
    model, _ = tiny.build()
    assert outcome.parameters == sum(weights.numel() for weights in model.parameters())
    assert "    module:model.vision_tower" in domain.ranges
    _, random = run(folder, job(images["noise.jpg"], max_new_tokens=9))
    assert random.requests[0].text == outcome.requests[0].text  # seed 0 both times
    _, other = run(folder, job(images["noise.jpg"], seed=1, max_new_tokens=9))
    assert other.requests[0].text != outcome.requests[0].text


Broken = Callable[[dict[str, Path], Path], Job]
WRONG: dict[str, tuple[Broken, type[DsprofError], int]] = {
    "no image": (lambda images, folder: job(folder / "none.png"), ImageUnusable, 36),
    "second image": (lambda images, folder: job(images["noise.jpg"], folder / JOB, warmup=0), ImageUnusable, 36),
    "no model": (lambda images, folder: job(images["noise.jpg"], model=str(folder)), ModelUnusable, 37),
    "flash": (lambda images, folder: job(images["noise.jpg"], use_flash_attn=True), AttentionUnavailable, 38),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_error_is_in_the_outcome_and_in_the_exit_code(
    folder: Path, domain: Written, images: dict[str, Path], wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, kind, exit_code = WRONG[wrong]
    code, outcome = run(folder, make(images, folder))
    assert code == exit_code
    name, message, hint = outcome.error
    assert name == kind.__name__
    assert f"dsprof: {message} {hint}" in capsys.readouterr().err
    assert outcome.versions["torch"] == torch.__version__
    assert len(outcome.requests) == (1 if wrong == "second image" else 0)  # what was done before is kept
    assert not domain.open


def test_the_log_says_where_a_model_broke(
    folder: Path, domain: Written, images: dict[str, Path], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "model.safetensors").write_bytes(b"cut")
    code, outcome = run(folder, job(images["noise.jpg"], model=str(copy)))
    assert code == 37
    assert "SafetensorError" in outcome.error[1]
    said = capsys.readouterr().err
    assert said.index("Traceback") < said.index("from_pretrained") < said.index("dsprof: The model in")


def test_an_error_that_nobody_expected_is_a_sentence_and_its_place_in_the_log(
    folder: Path,
    domain: Written,
    images: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails(self: Any, *_: Any) -> None:
        raise ZeroDivisionError("told here")

    monkeypatch.setattr(DeepSeekOCRSession, "run_inference", fails)
    write_json(folder / JOB, job(images["noise.jpg"]))
    assert process.main(folder) == 39
    outcome = read_outcome(folder / OUTCOME)
    assert (outcome.requests, outcome.device) == ([], "cpu")
    assert outcome.error == ["WorkloadFailed", "The session ended with ZeroDivisionError: told here.", ""]
    assert "in fails" in capsys.readouterr().err


def start(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dsprof.workloads", str(folder)],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_module_is_a_program(folder: Path, images: dict[str, Path]) -> None:
    write_json(folder / JOB, job(images["noise.jpg"], modules="stages"))
    done = start(folder)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    outcome = read_outcome(folder / OUTCOME)
    assert [asdict(record)["new_tokens"] for record in outcome.requests] == [3]
    write_json(folder / JOB, job(folder / "none.png", warmup=0))
    done = start(folder)
    assert done.returncode == 36
    assert "There is no image" in done.stderr
    assert read_outcome(folder / OUTCOME).error[0] == "ImageUnusable"


def test_a_batch_gives_each_image_what_it_gets_alone(tiny_folder, tmp_path):
    from PIL import Image

    session = DeepSeekOCRSession.from_local(tiny_folder, device="cpu")
    images = [tmp_path / "white.png", tmp_path / "black.png"]
    for path in images:
        Image.new("RGB", (640, 480), path.stem).save(path)
    alone = [session.run_inference(path, max_new_tokens=5) for path in images]
    together = session.run_batch(images, max_new_tokens=5)
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    assert together[0].token_ids != together[1].token_ids
    assert together[0].timing is together[1].timing
    assert session.served == 3
