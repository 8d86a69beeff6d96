"""Where prefill ends and each step begins, however `generate()` is called; and that nothing else changes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dsprof.words import DECODE, PREFILL
from dsprof.workloads import ranges
from dsprof.workloads.segmenter import Segmenter
from dsprof.workloads.timing import RequestTiming
from models import Written, answer, inside, llama, opaque, outline, state, text, torch, transformers, watched

#: New tokens of a request: the first comes from the prefill, each other one from a step.
NEW = 4
STEPS = NEW - 1


class Ticks:
    """A clock that goes on by one with every look at it, so that no busy machine makes a pause."""

    def __init__(self) -> None:
        self._now = itertools.count(1)

    def perf_counter_ns(self) -> int:
        return next(self._now)


@pytest.fixture(autouse=True)
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsprof.workloads.segmenter.time", Ticks())


class Stop(Exception):
    """Raised on purpose in the middle of a request."""


@pytest.fixture
def model(tiny_model: tuple[Any, Any]) -> Iterator[Any]:
    """The tiny model, of which nothing may be left changed."""
    model, _ = tiny_model
    before = state(model)
    yield model
    assert state(model) == before


@pytest.fixture(scope="module")
def page(tiny_model: tuple[Any, Any]) -> dict[str, Any]:
    """An image and its prompt, as the model takes them."""
    from PIL import Image

    _, processor = tiny_model
    image = Image.linear_gradient("L").convert("RGB").resize((640, 480))
    return dict(processor(images=image, text="<image>\nFree OCR. ", return_tensors="pt"))


def check_times(timing: RequestTiming, prompt: int | None, steps: int) -> None:
    """The host's times of one request: whole, in order, and of the right number."""
    assert timing.prompt_tokens == prompt
    stages = [(PREFILL, prompt), (DECODE, steps)] if steps else [(PREFILL, prompt)]
    assert [(stage.stage, stage.tokens) for stage in timing.stages] == stages
    assert {stage.request for stage in timing.stages} == {timing.request}
    assert len(timing.steps_ns) == steps
    assert all(step > 0 for step in timing.steps_ns)
    ends = [timing.start_ns, *(at for s in timing.stages for at in (s.start_ns, s.start_ns + s.duration_ns))]
    assert ends == sorted(ends)
    assert timing.stages[-1].start_ns + timing.stages[-1].duration_ns <= timing.start_ns + timing.duration_ns
    if steps:
        # The steps are all of the decode, but for the tick from its begin to the first of them.
        assert timing.stages[1].duration_ns - sum(timing.steps_ns) == 1


def same(found: Any, expected: Any) -> bool:
    return found.shape == expected.shape and bool(torch.equal(found, expected))


# -- ways to call generate() ----------------------------------------------------------------------------


def twice(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.cat([value, value]) for name, value in inputs.items()}


#: How an image is read: what else generate() is given, and how many forwards its prefill has.
PAGES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], int]] = {
    "greedy": (lambda page: page, 1),
    "sampling": (lambda page: {**page, "do_sample": True, "temperature": 5.0}, 1),
    "beam": (lambda page: {**page, "num_beams": 2}, 1),
    "batch": (twice, 1),
    "static cache": (lambda page: {**page, "cache_implementation": "static"}, 1),
    "chunked prefill": (lambda page: {**page, "prefill_chunk_size": 64}, 3),
    "no cache": (lambda page: {**page, "use_cache": False}, 1),
}


@pytest.mark.parametrize("way", PAGES)
def test_an_image_is_read_in_a_prefill_and_steps(model: Any, page: dict[str, Any], way: str) -> None:
    prepare, prefills = PAGES[way]
    inputs, prompt = {**prepare(page), "max_new_tokens": NEW}, page["input_ids"].shape[1]
    torch.manual_seed(1)
    expected = answer(model, **inputs)
    assert expected.shape[1] == prompt + NEW
    domain = Written()
    torch.manual_seed(1)
    with (
        watched(model, domain) as forwards,
        watched(model.model.vision_tower, domain) as towers,
        Segmenter(model, domain=domain) as segmenter,
    ):
        assert same(answer(model, **inputs), expected)
    assert domain.ranges == outline(prompt, STEPS)
    assert forwards == inside(prompt, STEPS, prefills)
    assert towers == inside(prompt, 0)
    assert not domain.open
    (timing,) = segmenter.timings
    check_times(timing, prompt, STEPS)


def test_sampling_follows_its_seed(model: Any, page: dict[str, Any]) -> None:
    """Or the test above would compare what cannot differ."""
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(answer(model, **PAGES["sampling"][0](page), max_new_tokens=NEW).tolist())
    assert drawn[0] != drawn[1]


def positional(model: Any) -> Any:
    with torch.inference_mode():
        return model.generate(text(), do_sample=False, max_new_tokens=NEW)


def embedded(model: Any, **keywords: Any) -> Any:
    with torch.inference_mode():
        return answer(model, inputs_embeds=model.get_input_embeddings()(text()), max_new_tokens=NEW, **keywords)


#: How text is given, and the length of the prompt as far as generate() is told it.
TEXTS: dict[str, tuple[Callable[[Any], Any], int | None]] = {
    "input_ids=": (lambda model: answer(model, input_ids=text(), max_new_tokens=NEW), 5),
    "inputs=": (lambda model: answer(model, inputs=text(), max_new_tokens=NEW), 5),
    "positional": (positional, 5),
    "inputs_embeds=": (embedded, None),
    "inputs_embeds= and input_ids=": (lambda model: embedded(model, input_ids=text()), 5),
    "nothing": (lambda model: answer(model, max_new_tokens=NEW), None),
}


@pytest.mark.parametrize("way", TEXTS)
def test_a_prompt_of_text_may_come_in_any_form(model: Any, way: str) -> None:
    call, prompt = TEXTS[way]
    expected, domain = call(model), Written()
    with watched(model, domain) as forwards, Segmenter(model, domain=domain) as segmenter:
        assert same(call(model), expected)
    assert domain.ranges == outline(prompt, STEPS)
    assert forwards == inside(prompt, STEPS)
    check_times(segmenter.timings[0], prompt, STEPS)


@pytest.mark.parametrize(("chunk", "prefills"), [(2, 3), (3, 2), (5, 1), (64, 1)])
def test_a_chunked_prefill_ends_with_its_last_chunk(model: Any, chunk: int, prefills: int) -> None:
    domain = Written()
    with watched(model, domain) as forwards, Segmenter(model, domain=domain):
        answer(model, input_ids=text(), max_new_tokens=NEW, prefill_chunk_size=chunk)
    assert forwards == inside(5, STEPS, prefills)


@pytest.mark.parametrize("new", [1, 2, 9])
def test_n_tokens_are_a_prefill_and_n_less_one_steps(model: Any, new: int) -> None:
    domain = Written()
    with watched(model, domain) as forwards, Segmenter(model, domain=domain) as segmenter:
        assert answer(model, input_ids=text(), max_new_tokens=new).shape == (1, 5 + new)
    assert domain.ranges == outline(5, new - 1)
    assert forwards == inside(5, new - 1)
    check_times(segmenter.timings[0], 5, new - 1)


def test_what_generate_returns_is_passed_on_as_it_is(model: Any) -> None:
    asked = {"input_ids": text(), "max_new_tokens": NEW, "return_dict_in_generate": True, "output_scores": True}
    expected = answer(model, **asked)
    with Segmenter(model, "all", Written()):
        found = answer(model, **asked)
    assert type(found) is type(expected)
    assert same(found.sequences, expected.sequences)
    assert len(found.scores) == NEW
    assert all(same(ours, theirs) for ours, theirs in zip(found.scores, expected.scores, strict=True))


@pytest.mark.parametrize("keyword", ["past_key_values", "cache"])
def test_the_next_turn_of_a_conversation_decodes_too(model: Any, keyword: str) -> None:
    """Its prompt is the whole conversation, of which the cache holds the first turn already."""
    if keyword == "cache" and tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 24):
        pytest.skip(f"transformers {transformers.__version__} calls it past_key_values")
    domain, cache = Written(), {keyword: transformers.DynamicCache()}
    with watched(model, domain) as forwards, Segmenter(model, domain=domain):
        first = answer(model, input_ids=text(), max_new_tokens=NEW, **cache)
        both = torch.cat([first, text()], dim=1)
        answer(model, input_ids=both, max_new_tokens=NEW, **cache)
    assert domain.ranges == [*outline(5, STEPS), *outline(14, STEPS, request=1)]
    assert forwards == [*inside(5, STEPS), *inside(14, STEPS, request=1)]


def test_an_encoder_reads_the_prompt_and_the_decoder_starts_anew() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                                   decoder_start_token_id=0, pad_token_id=0, eos_token_id=None)  # fmt: skip
    model, domain = transformers.T5ForConditionalGeneration(config).eval(), Written()
    expected = answer(model, input_ids=text() - 20, max_new_tokens=NEW)
    with watched(model, domain) as forwards, Segmenter(model, domain=domain) as segmenter:
        assert same(answer(model, input_ids=text() - 20, max_new_tokens=NEW), expected)
    assert domain.ranges == outline(5, STEPS)
    assert forwards == inside(5, STEPS)
    check_times(segmenter.timings[0], 5, STEPS)


# -- requests -------------------------------------------------------------------------------------------


def test_requests_are_numbered_from_the_first(model: Any) -> None:
    domain = Written()
    with Segmenter(model, domain=domain, first_request=7) as segmenter:
        for new in (1, 2):
            answer(model, input_ids=text(), max_new_tokens=new)
    assert domain.ranges == [*outline(5, 0, request=7), *outline(5, 1, request=8)]
    assert [timing.request for timing in segmenter.timings] == [7, 8]
    for timing, steps in zip(segmenter.timings, (0, 1), strict=True):
        check_times(timing, 5, steps)


def test_another_model_that_drafts_is_no_request_of_its_own(model: Any) -> None:
    """An assistant is generate() inside generate(), on another object; its forwards are no steps."""
    assistant, domain = llama(), Written()
    asked = {"input_ids": text(), "max_new_tokens": 6, "assistant_model": resized(assistant, model)}
    expected = answer(model, **asked)
    with watched(model, domain) as forwards, watched(assistant, domain) as drafts, Segmenter(model, domain=domain):
        assert same(answer(model, **asked), expected)
    assert len(forwards) > 1
    assert forwards == inside(5, len(forwards) - 1)
    assert domain.ranges == outline(5, len(forwards) - 1)
    assert drafts
    assert all(ranges[0] == "request 0" for ranges in drafts)


def test_a_model_that_drafts_for_itself_is_one_request(model: Any) -> None:
    domain = Written()
    asked = {"input_ids": text(), "max_new_tokens": 8, "assistant_model": model}
    expected, drafts = answer(model, **asked), []
    with Segmenter(model, domain=domain) as segmenter:
        ours = model.generate

        @functools.wraps(ours)
        def generate(*arguments: Any, **keywords: Any) -> Any:
            drafts.append(list(domain.open))
            return ours(*arguments, **keywords)

        object.__setattr__(model, "generate", generate)
        assert same(answer(model, **asked), expected)
        object.__setattr__(model, "generate", ours)
    assert drafts[:2] == [[], ["request 0", "prefill 5"]]  # the request, then a draft before its first forward
    # Between two drafts there is one forward of the request: the first ends the prefill, each other one is a step.
    steps = len(drafts) - 2
    assert 0 < steps < 7
    assert domain.ranges == outline(5, steps)
    check_times(segmenter.timings[0], 5, steps)


def resized(assistant: Any, model: Any) -> Any:
    """The assistant with as many tokens as the model: transformers wants one vocabulary for both."""
    assistant.resize_token_embeddings(model.config.get_text_config().vocab_size)
    return assistant


@pytest.mark.parametrize(
    ("asked", "batch"),
    [
        ({"input_ids": text()}, 1),
        ({"input_ids": text(3)}, 3),
        ({"inputs": text(3)}, 3),
        ({"input_ids": text(2), "do_sample": True, "num_return_sequences": 3}, 6),
        ({"input_ids": text(2), "generation_config": transformers.GenerationConfig(
            num_beams=2, num_return_sequences=2, max_new_tokens=NEW)}, 4),
        ({"input_ids": text(2), "num_beams": 2}, 2),
        ({"input_ids": text(), "prompt_lookup_num_tokens": 2}, None),  # a step makes as many as fit
        ({}, None),
    ],
)  # fmt: skip
def test_how_many_sequences_a_step_makes_a_token_of_is_said(
    model: Any, asked: dict[str, Any], batch: int | None
) -> None:
    domain = Written()
    with Segmenter(model, domain=domain):
        output = answer(model, **asked, max_new_tokens=NEW)
    assert domain.batches == ([] if batch is None else [batch])
    assert batch is None or len(output) == batch


# -- hand-written loops ---------------------------------------------------------------------------------


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Written:
    """The domain that ranges of one's own go to."""
    written = Written()
    monkeypatch.setattr(ranges, "open_domain", lambda: written)
    return written


def test_a_loop_of_ones_own_says_where_its_stages_are(model: Any, domain: Written) -> None:
    expected = answer(model, input_ids=text(), max_new_tokens=NEW)
    new, ids = [], text()
    with torch.inference_mode(), watched(model, domain) as forwards, Segmenter(model, "all", domain) as segmenter:
        with ranges.prefill_range(ids.shape[1], batch=1):
            output = model(input_ids=ids, use_cache=True)
            new.append(output.logits[:, -1:].argmax(-1))
        with ranges.decode_range():
            for step in range(1, NEW):
                with ranges.annotate("decode.step", step):
                    output = model(input_ids=new[-1], past_key_values=output.past_key_values, use_cache=True)
                    new.append(output.logits[:, -1:].argmax(-1))
    assert same(torch.cat([ids, *new], dim=1), expected)
    assert domain.ranges == [line[2:] for line in outline(5, STEPS)[1:]]
    assert forwards == [names[1:] for names in inside(5, STEPS)]
    assert segmenter.timings == []  # it was no generate()


def test_a_range_of_ones_own_is_closed_by_an_error(domain: Written) -> None:
    with pytest.raises(Stop), ranges.prefill_range(5), ranges.annotate("inner"):
        raise Stop
    with pytest.raises(Stop), ranges.decode_range():
        raise Stop
    assert domain.ranges == ["prefill 5", "  inner", "decode"]
    assert not domain.open


# -- modules --------------------------------------------------------------------------------------------

TOWER = [
    "module:model.vision_tower",
    "  module:model.vision_tower.sam_encoder",
    "  module:model.vision_tower.vision_encoder",
    "module:model.multi_modal_projector",
]
SAM, ENCODER = "model.vision_tower.sam_encoder.layers", "model.vision_tower.vision_encoder.layers"
TOWER_LAYERS = [
    *TOWER[:2], f"    module:{SAM}.0", f"    module:{SAM}.1",
    TOWER[2], f"    module:{ENCODER}.0", f"    module:{ENCODER}.1", TOWER[3],
]  # fmt: skip
TOWER_ALL = [
    *TOWER[:2],
    *(f"{indent}module:{SAM}.{i}{part}" for i in (0, 1) for indent, part in (
        ("    ", ""), ("      ", ".attn"), ("      ", ".mlp"))),
    TOWER[2],
    *(f"{indent}module:{ENCODER}.{i}{part}" for i in (0, 1) for indent, part in (
        ("    ", ""), ("      ", ".self_attn"), ("      ", ".mlp"))),
    TOWER[3],
]  # fmt: skip
TEXT_LAYERS = [f"  module:model.language_model.layers.{i}" for i in range(3)]
HEAD = "  module:lm_head"


def parts(layer: int) -> list[str]:
    name = f"module:model.language_model.layers.{layer}"
    experts = [f"      {name}.mlp.{part}" for part in ("gate", "experts", "shared_experts")] if layer else []
    return [f"  {name}", f"    {name}.self_attn", f"    {name}.mlp", *experts]


#: By level: the modules before the first forward, and those of every forward.
LEVELS: dict[str, tuple[list[str], list[str]]] = {
    "none": ([], []),
    "stages": (TOWER, ["forward", HEAD]),
    "layers": (TOWER_LAYERS, ["forward", *TEXT_LAYERS, HEAD]),
    "all": (TOWER_ALL, ["forward", *itertools.chain.from_iterable(map(parts, range(3))), HEAD]),
    r"mlp\.experts$": ([], ["forward", *(f"{line}.mlp.experts" for line in TEXT_LAYERS[1:])]),
    r"^lm_head$|neck$": (["module:model.vision_tower.sam_encoder.neck"], ["forward", HEAD]),
    "no such module": ([], ["forward"]),
}


@pytest.mark.parametrize("modules", LEVELS)
def test_each_level_opens_its_modules_and_no_more(model: Any, page: dict[str, Any], modules: str) -> None:
    before, forward = LEVELS[modules]
    expected, domain = answer(model, **page, max_new_tokens=3), Written()
    with Segmenter(model, modules, domain) as segmenter:
        assert same(answer(model, **page, max_new_tokens=3), expected)
    first, *steps = outline(page["input_ids"].shape[1], 2)
    wanted = [first, steps[0], *("    " + line for line in [*before, *forward]), steps[1]]
    for step in steps[2:]:
        wanted += [step, *("      " + line for line in forward)]
    assert domain.ranges == wanted
    assert not domain.open
    check_times(segmenter.timings[0], page["input_ids"].shape[1], 2)


def test_modules_outside_of_a_request_have_no_ranges(model: Any) -> None:
    domain = Written()
    with torch.inference_mode(), Segmenter(model, "all", domain):
        model(input_ids=text())
    assert domain.ranges == []


def test_the_names_of_the_first_deepseek_ocr_are_known() -> None:
    """Its code is not here, so its names are: what a level finds in a tree of modules with them."""
    root = torch.nn.Module()
    names = (
        "model.sam_model.blocks.0.attn", "model.vision_model.transformer.layers.0.self_attn", "model.projector.layers",
        "model.layers.0.self_attn", "model.layers.1.mlp.experts.0.up_proj", "model.layers.1.mlp.shared_experts",
        "lm_head",
    )  # fmt: skip
    for name in names:
        inner = root
        for part in name.split("."):
            if not hasattr(inner, part):
                inner.add_module(part, torch.nn.Module())
            inner = getattr(inner, part)
    root.generate = lambda: None
    found = {}
    for level in ("stages", "layers", "all"):
        with Segmenter(root, level, Written()):
            found[level] = {name for name, module in root.named_modules() if module._forward_pre_hooks and name}
    stages = {"model.sam_model", "model.vision_model", "model.projector", "lm_head"}
    layers = {"model.sam_model.blocks.0", "model.vision_model.transformer.layers.0", "model.layers.0", "model.layers.1"}
    inner = {
        "model.sam_model.blocks.0.attn", "model.vision_model.transformer.layers.0.self_attn",
        "model.layers.0.self_attn", "model.layers.1.mlp", "model.layers.1.mlp.experts",
        "model.layers.1.mlp.shared_experts",
    }  # fmt: skip
    assert found == {"stages": stages, "layers": stages | layers, "all": stages | layers | inner}


# -- errors ---------------------------------------------------------------------------------------------


def nothing(*_: Any, **__: Any) -> None:
    """What a hook or a streamer gives."""


def scores(ids: Any, scores: Any) -> Any:
    """What a processor gives."""
    return scores


def go_on(ids: Any, scores: Any, **_: Any) -> Any:
    """What a stopping criterion gives."""
    return torch.zeros(len(ids), dtype=torch.bool)


def raising(error: type[BaseException], after: int, gives: Callable[..., Any] = nothing) -> Callable[..., Any]:
    """A function that raises once it was called `after` times."""
    calls = itertools.count()

    def maybe(*arguments: Any, **keywords: Any) -> Any:
        if next(calls) >= after:
            raise error
        return gives(*arguments, **keywords)

    return maybe


class Streamer:
    """A streamer that does `put` to what it is given."""

    def __init__(self, put: Callable[..., Any]) -> None:
        self.put = put

    def end(self) -> None:
        """Nothing is left to do."""


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("modules", ["none", "all"])
@pytest.mark.parametrize("where", ["forward", "layer", "before a layer", "streamer", "criterion", "processor"])
@pytest.mark.parametrize(("after", "steps"), [(0, 0), (2, 2)])
def test_an_error_leaves_nothing_open_or_changed(
    model: Any, error: type[BaseException], modules: str, where: str, after: int, steps: int
) -> None:
    """Raised by code of the caller's in the prefill, or in the second step."""
    raises, domain, asked, hook = raising(error, after), Written(), {}, None
    layer = model.model.language_model.layers[1]
    if where == "forward":
        hook = model.register_forward_hook(raises)
    elif where == "layer":
        hook = layer.register_forward_hook(raises)
    elif where == "before a layer":
        hook = layer.register_forward_pre_hook(raises)
    elif where == "streamer":
        asked["streamer"] = Streamer(raising(error, after + 1))  # it is given the prompt first
    elif where == "criterion":
        asked["stopping_criteria"] = [raising(error, after, go_on)]
    else:
        asked["logits_processor"] = [raising(error, after, scores)]
    segmenter = Segmenter(model, modules, domain)
    try:
        with pytest.raises(error), segmenter:
            answer(model, input_ids=text(), max_new_tokens=9, **asked)
    finally:
        if hook is not None:
            hook.remove()
    assert not domain.open
    assert [line for line in domain.ranges if "module" not in line and "forward" not in line] == outline(5, steps)
    check_times(segmenter.timings[0], 5, steps)


def test_after_an_error_the_next_request_is_a_whole_one(model: Any) -> None:
    domain = Written()
    with Segmenter(model, "layers", domain) as segmenter:
        with pytest.raises(Stop):
            answer(model, input_ids=text(), max_new_tokens=9, stopping_criteria=[raising(Stop, 1, go_on)])
        assert not domain.open
        domain.ranges.clear()
        answer(model, input_ids=text(), max_new_tokens=NEW)
    assert [line for line in domain.ranges if "module" not in line and "forward" not in line] == outline(5, STEPS, 1)
    check_times(segmenter.timings[1], 5, STEPS)


def test_an_error_that_the_model_deals_with_closes_its_module() -> None:
    class Risky(torch.nn.Module):
        forward = raising(Stop, 0)

    model, domain = llama(), Written()
    model.risky, original = Risky(), model.forward

    @functools.wraps(original)
    def forward(*arguments: Any, **keywords: Any) -> Any:
        with pytest.raises(Stop):
            model.risky()
        return original(*arguments, **keywords)

    model.forward = forward
    with Segmenter(model, "risky|lm_head", domain):
        answer(model, input_ids=text(), max_new_tokens=1)
    assert domain.ranges == [*outline(5, 0), "    forward", "      module:risky", "      module:lm_head"]


def test_a_model_without_generate_cannot_be_split() -> None:
    with pytest.raises(TypeError, match=r"Linear has no generate\(\)"):
        Segmenter(torch.nn.Linear(2, 2), domain=Written())


# -- what is left as it was -----------------------------------------------------------------------------


def test_attributes_that_were_wrapped_already_are_put_back(model: Any) -> None:
    calls = []
    inner = {name: getattr(model, name) for name in ("generate", "prepare_inputs_for_generation")}

    @functools.wraps(inner["generate"])
    def generate(*arguments: Any, **keywords: Any) -> Any:
        calls.append("generate")
        return inner["generate"](*arguments, **keywords)

    @functools.wraps(inner["prepare_inputs_for_generation"])
    def prepare(*arguments: Any, **keywords: Any) -> Any:
        calls.append("prepare")
        return inner["prepare_inputs_for_generation"](*arguments, **keywords)

    object.__setattr__(model, "generate", generate)
    object.__setattr__(model, "prepare_inputs_for_generation", prepare)
    try:
        domain = Written()
        with Segmenter(model, domain=domain):
            assert model.generate is not generate
            answer(model, input_ids=text(), max_new_tokens=NEW)
        assert vars(model)["generate"] is generate
        assert vars(model)["prepare_inputs_for_generation"] is prepare
    finally:
        del model.generate, model.prepare_inputs_for_generation
    assert calls == ["generate", *["prepare"] * NEW]
    assert domain.ranges == outline(5, STEPS)


def test_methods_of_the_class_are_met_again(model: Any) -> None:
    with Segmenter(model, domain=Written()):
        assert "generate" in vars(model)
    assert "generate" not in vars(model)
    assert model.generate.__func__ is type(model).generate


def test_callers_code_does_not_mark_where_a_stage_begins(model: Any) -> None:
    """Processors, criteria and streamers run after a forward, in what it opened."""
    domain = Written()
    seen: dict[str, list[list[str]]] = {"processor": [], "criterion": [], "streamer": []}

    def processor(*arguments: Any) -> Any:
        seen["processor"].append(list(domain.open))
        return scores(*arguments)

    def criterion(*arguments: Any, **keywords: Any) -> Any:
        seen["criterion"].append(list(domain.open))
        return go_on(*arguments, **keywords)

    asked = {
        "logits_processor": [processor],
        "stopping_criteria": [criterion],
        "streamer": Streamer(lambda tokens: seen["streamer"].append(list(domain.open))),
    }
    with Segmenter(model, domain=domain):
        answer(model, input_ids=text(), max_new_tokens=NEW, **asked)
    assert domain.ranges == outline(5, STEPS)
    assert seen["processor"] == seen["criterion"] == inside(5, STEPS)
    assert seen["streamer"] == [inside(5, 0)[0], *inside(5, STEPS)]  # first the prompt


def test_a_step_holds_the_preparation_of_its_inputs(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It launches kernels of its own."""
    domain, seen = Written(), []
    original = type(model).prepare_inputs_for_generation

    @functools.wraps(original)
    def prepare(self: Any, *arguments: Any, **keywords: Any) -> Any:
        seen.append(list(domain.open))
        return original(self, *arguments, **keywords)

    monkeypatch.setattr(type(model), "prepare_inputs_for_generation", prepare)
    with Segmenter(model, domain=domain):
        answer(model, input_ids=text(), max_new_tokens=NEW)
    assert seen == inside(5, STEPS)


# -- compiled models ------------------------------------------------------------------------------------


class Opaque(Written):
    """Like nvtx to the compiler: it cannot look in, and breaks the graph, or fails where that is forbidden."""

    push = opaque(Written.push)
    pop = opaque(Written.pop)


@pytest.fixture
def compiled() -> Iterator[Callable[[], int]]:
    """How many graphs were compiled since the test began."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield lambda: torch._dynamo.utils.counters["stats"]["unique_graphs"]
    torch._dynamo.reset()


def compile_in_generate(fullgraph: bool) -> dict[str, Any]:
    """What generate() does by itself on a GPU with a static cache."""
    config = transformers.CompileConfig(backend="eager", fullgraph=fullgraph, mode=None)
    config._compile_all_devices = True
    return {"cache_implementation": "static", "compile_config": config}


@pytest.mark.parametrize("fullgraph", [False, True])
def test_what_generate_compiles_keeps_its_graph(compiled: Callable[[], int], fullgraph: bool) -> None:
    model, asked = llama(), {"input_ids": text(), "max_new_tokens": NEW, **compile_in_generate(fullgraph)}
    expected, domain = answer(model, **asked), Opaque()
    graphs = compiled()
    assert graphs
    fresh = llama()
    torch._dynamo.reset()
    with Segmenter(fresh, "all", domain) as segmenter:
        assert same(answer(fresh, **asked), expected)
    assert compiled() == 2 * graphs  # as many as without ranges
    assert not domain.open
    decode = domain.ranges.index("  decode")
    assert domain.ranges[decode:] == outline(5, STEPS)[2:]  # no modules in what was compiled
    assert "    forward" in domain.ranges[:decode]  # and those of the prefill, which is not
    check_times(segmenter.timings[0], 5, STEPS)


def test_what_was_compiled_before_is_not_compiled_again(compiled: Callable[[], int]) -> None:
    """After a warm-up, the request that is measured runs the code that the warm-up compiled."""
    model, asked = llama(), {"input_ids": text(), "max_new_tokens": NEW, **compile_in_generate(fullgraph=False)}
    expected, domain = answer(model, **asked), Opaque()
    graphs = compiled()
    assert graphs
    with Segmenter(model, "all", domain):
        assert same(answer(model, **asked), expected)
    assert compiled() == graphs
    assert domain.ranges == outline(5, STEPS)


def test_a_model_that_was_compiled_in_place_has_stages_and_steps(compiled: Callable[[], int]) -> None:
    model, domain = llama(), Opaque()
    model.compile(backend="eager")
    expected = answer(model, input_ids=text(), max_new_tokens=NEW)
    graphs = compiled()
    assert graphs
    with Segmenter(model, "all", domain) as segmenter:
        assert same(answer(model, input_ids=text(), max_new_tokens=NEW), expected)
    assert compiled() == graphs
    assert domain.ranges == outline(5, STEPS)
    check_times(segmenter.timings[0], 5, STEPS)


def test_a_compiled_copy_has_stages_and_steps(compiled: Callable[[], int]) -> None:
    """`torch.compile(model)` wraps the model, and its generate() is the inner model's."""
    inner, domain = llama(), Opaque()
    model = torch.compile(inner, backend="eager")
    expected, before = answer(inner, input_ids=text(), max_new_tokens=NEW), state(inner)
    with Segmenter(model, "all", domain) as segmenter:
        assert same(answer(model, input_ids=text(), max_new_tokens=NEW), expected)
    assert domain.ranges == outline(5, STEPS)
    check_times(segmenter.timings[0], 5, STEPS)
    assert state(inner) == before


def test_a_compiled_part_keeps_its_graph(compiled: Callable[[], int]) -> None:
    model, domain = llama(), Opaque()
    layer = model.model.layers[0]
    layer.compile(backend="eager", fullgraph=True)
    expected = answer(llama(), input_ids=text(), max_new_tokens=2)
    with Segmenter(model, "all", domain):
        assert same(answer(model, input_ids=text(), max_new_tokens=2), expected)
    assert compiled()
    assert domain.ranges == [
        "request 0", "  prefill 5", "    forward", "      module:lm_head",
        "  decode", "    decode.step 1", "      forward", "        module:lm_head",
    ]  # fmt: skip
