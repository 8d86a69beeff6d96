"""What a model is and what images become for it: as a capture records it, and as the command prints it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dsprof.model.costs import View, model_of
from dsprof.model.record import RequestInput, read_record
from dsprof.workloads.deepseek_ocr import open_image, plain_config, views_of
from models import noise, torch

from dsprof.workloads.describe import describe  # isort: skip

SAMPLES = Path(__file__).resolve().parents[1] / "traces" / "samples"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A page that is cut into crops, and a small one that is not."""
    folder = tmp_path_factory.mktemp("pictures")
    paths = [folder / "page.png", folder / "small.png"]
    noise(900, 1200).save(paths[0])
    noise(300, 300).save(paths[1])
    return paths


def test_the_views_are_what_the_vision_tower_is_given(tiny_model: tuple[Any, Any], pictures: list[Path]) -> None:
    model, processor = tiny_model
    images = [open_image(path) for path in pictures]
    inputs = processor(images=images, text=["<image>\nFree OCR. "] * 2, return_tensors="pt", padding=True)
    seen: list[tuple[int, ...]] = []
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple((*args, *kwargs.values())[0].shape)), with_kwargs=True
    )
    try:
        with torch.inference_mode():
            model(**inputs)
    finally:
        hook.remove()
    views = views_of(inputs, 2)
    assert views[1] == [[1, 768, 768]]
    assert views[0] is not None
    assert [view[1:] for view in views[0]] == [[768, 768], [768, 768]]
    assert [shape[0] for shape in seen] == [2, views[0][1][0]]
    assert {shape[2:] for shape in seen} == {(768, 768)}


def test_inputs_of_another_form_say_nothing_of_views() -> None:
    assert views_of({}, 2) == [None, None]
    assert views_of({"pixel_values": torch.zeros(1, 3, 8, 8)}, 2) == [None, None]
    assert views_of({"pixel_values": torch.zeros(1, 5, 3, 8, 8)}, 1) == [None]


def test_the_configuration_is_plain_and_names_no_path(tiny_folder: Path) -> None:
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(tiny_folder, local_files_only=True)
    assert model.config._name_or_path == str(tiny_folder)
    config = plain_config(model)
    assert str(tiny_folder) not in json.dumps(config)
    assert "_name_or_path" not in json.dumps(config)
    assert model_of(config, "float32").parameters == sum(part.numel() for part in model.parameters())


def test_a_model_without_a_configuration_has_none() -> None:
    class Odd:
        config = type("Config", (), {"to_json_string": lambda self, use_diff: "[1]"})()

    assert plain_config(object()) == {}
    assert plain_config(Odd()) == {}


def test_the_document_is_what_a_report_finds_beside_it(pictures: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "run.model.json"
    path.write_text(json.dumps(describe("tiny", "float16", pictures)))
    found = read_record(path)
    assert (found.dtype, found.config["model_type"]) == ("float16", "deepseek_ocr2")
    assert found.each is not None
    assert found.each.batch == 2
    assert found.each.views is not None
    assert found.each.views[0] == found.each.views[2] == View(1, 768, 768)
    path.write_text(json.dumps(describe("tiny", "float16", [])))
    assert read_record(path).each == RequestInput(1, ())


def test_the_samples_documents_are_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from dsprof.cli import main
    from dsprof.workloads.page import draw

    page = draw(tmp_path / "page.png")
    for name, images in (("stages", 1), ("batch", 2)):
        monkeypatch.setattr("sys.argv", ["dsprof", "workloads", "config", "full", *["--image", str(page)] * images])
        with pytest.raises(SystemExit, match=r"^0$"):
            main()
        kept = json.loads((SAMPLES / f"h200-{name}.model.json").read_text())
        printed = json.loads(capsys.readouterr().out)
        for document in (kept, printed):
            document["config"].pop("transformers_version")
        assert printed == kept


@pytest.mark.parametrize("arguments", [["huge"], ["tiny", "--dtype", "int3"]])
def test_a_wrong_size_or_type_is_a_usage_error(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from dsprof.cli import main

    monkeypatch.setattr("sys.argv", ["dsprof", "workloads", "config", *arguments])
    with pytest.raises(SystemExit, match=r"^2$"):
        main()
    assert "the size is one of tiny, full" in " ".join(capsys.readouterr().err.split())
