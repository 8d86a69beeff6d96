"""Which launcher or engine a command line calls, what it gets, and where nsys stands; nothing is run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsprof.capture import launchers
from dsprof.capture.launchers import Form, all_launchers, call_in, chain_of, without_shell
from dsprof.capture.loopback import base_of
from dsprof.capture.options import ProfileOptions, arguments_of
from dsprof.capture.plan import Plan, Wishes, plan_of
from dsprof.errors import CaptureRefused

FORKS = "--trace-fork-before-exec=true"
VLLM = ["--trace-fork-before-exec", "VLLM_WORKER_MULTIPROC_METHOD", "--profiler-config.profiler"]
WINDOW = ["--capture-range", "--capture-range-end"]


def planned(command: list[str], environment: dict[str, str] | None = None, **wishes: Any) -> Plan:
    return plan_of(command, Wishes(**wishes), ProfileOptions(env={}), environment or {})


def names(plan: Plan) -> list[str]:
    return [add.name for add in plan.added]


# -- recognition ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "chain"),
    [
        ("vllm serve m", ["vllm"]),
        ("/opt/venv/bin/vllm serve m --port 8000", ["vllm"]),
        ("vllm --log-level debug serve m", ["vllm"]),
        ("vllm bench latency --model m", ["vllm"]),
        ("vllm bench serve --model m", ["vllm"]),
        ("python -m vllm.entrypoints.openai.api_server --model m", ["vllm"]),
        ("python3.12 -u -X dev -m vllm.entrypoints.openai.api_server", ["vllm"]),
        ("python -um vllm.entrypoints.cli.main serve m", ["vllm"]),
        ("python /opt/venv/bin/vllm serve m", ["vllm"]),
        ("env A=B CUDA_VISIBLE_DEVICES=0 vllm serve m", ["vllm"]),
        ("env -u A -i A=B nice -n 5 vllm serve m", ["vllm"]),
        ("nohup stdbuf -oL timeout -k 5 100 vllm serve m", ["vllm"]),
        ("numactl --cpunodebind=0 --membind 0 vllm serve m", ["vllm"]),
        ("taskset -c 0-3 vllm serve m", ["vllm"]),
        ("uv run --with vllm vllm serve m", ["vllm"]),
        ("conda run -n engine --no-capture-output vllm serve m", ["vllm"]),
        ("python -m sglang.launch_server --model-path m", ["sglang"]),
        ("sglang serve --model-path m", ["sglang"]),
        ("trtllm-serve m --port 8000", ["trtllm"]),
        ("trtllm-serve serve m", ["trtllm"]),
        ("trtllm-bench --model m throughput", ["trtllm"]),
        ("torchrun --nproc-per-node 2 train.py", ["torchrun"]),
        ("torchrun --nproc_per_node=2 -m sglang.launch_server", ["torchrun", "sglang"]),
        ("python3.12 -m torch.distributed.run --standalone train.py", ["torchrun"]),
        ("deepspeed --num_gpus 2 train.py", ["deepspeed"]),
        ("accelerate launch --num_processes 2 train.py", ["accelerate"]),
        ("mpirun -n 4 --mca btl tcp,self -x A trtllm-llmapi-launch trtllm-serve m", ["mpirun", "trtllm"]),
        ("mpiexec -genv A B -np 4 python x.py", ["mpirun"]),
        ("srun -N2 -n 4 --gpus-per-node 4 -l python -m sglang.launch_server", ["srun", "sglang"]),
        ("srun --mpi=pmix env A=B vllm serve m", ["srun", "vllm"]),
        ("srun -n 1 torchrun --nproc-per-node 8 train.py", ["srun", "torchrun"]),
        ("docker run --rm image vllm serve m", ["elsewhere"]),
        ("ray start --head", ["elsewhere"]),
    ],
)
def test_what_a_command_line_calls(command: str, chain: list[str]) -> None:
    assert [name for name, _, _ in chain_of(tuple(command.split()))] == chain


@pytest.mark.parametrize(
    "command",
    [
        ["python", "vllm.py", "serve"],  # the user's own
        ["./vllm.py", "serve", "m"],
        ["python", "my_vllm_test.py", "serve"],
        ["python", "-m", "my.vllm", "serve"],
        ["python", "-m", "vllm_tools", "serve"],
        ["python", "-c", "import vllm", "vllm", "serve"],
        ["python", "-cimport vllm", "serve"],
        ["python", "-W", "vllm", "x.py"],
        ["python"],
        ["my-vllm", "serve", "m"],
        ["vllm"],
        ["vllm", "--version"],
        ["vllm", "collect-env"],
        ["vllm", "chat", "serve"],
        ["echo", "vllm", "serve"],
        ["grep", "-r", "vllm serve", "."],
        ["torchrun.sh", "x.py"],
        ["accelerate", "config"],
        ["docker", "ps"],
        ["env"],
        ["env", "A=B"],
        ["env", "--split-string=vllm serve m"],
        ["timeout", "5"],
        ["nice", "--unknown", "vllm", "serve", "m"],
        ["/home/me/my vllm serve/run", "vllm", "serve"],
        ["", "vllm", "serve"],
        ["vllm serve m"],
    ],
)
def test_what_is_none_of_them(command: list[str]) -> None:
    assert chain_of(tuple(command)) == []
    plan = planned(command)
    assert (plan.command, plan.added, plan.ranks, plan.said()) == (tuple(command), (), None, [])


def test_a_folder_of_a_program_s_name_is_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    monkeypatch.chdir(tmp_path)
    assert chain_of(("python", "vllm", "serve", "m")) == []


def test_paths_with_blanks_are_one_word() -> None:
    command = ["/opt/my engines/bin/vllm", "serve", "/models/my model"]
    assert planned(command).command[:3] == tuple(command)


def test_every_form_is_found_by_its_own_words_and_no_other_launcher_takes_it() -> None:
    forms: list[tuple[str, Form, str]] = [
        (name, form, call) for name, one in all_launchers().items() for form in one.forms for call in form.calls
    ]
    assert len(forms) > 30
    for name, form, call in forms:
        words = ("python", *call.split(), "x") if call.startswith("-m") else (*call.split(), "x")
        assert chain_of(words)[0][:2] == (name, form), call


def test_every_file_of_the_folder_is_a_launcher() -> None:
    folder = Path(launchers.__file__).parent
    assert set(all_launchers()) == {path.stem for path in folder.glob("[!_]*.py")}


def test_every_sentence_is_one_and_every_pattern_is_linear() -> None:
    """No reason ends with a full stop, every hint with one; and patterns take no time on long arguments."""
    text = "--profiler-config " + "-tp " * 20_000 + "--x=" + "a" * 100_000
    for one in all_launchers().values():
        for form in one.forms:
            assert all(add.why and not add.why.endswith(".") for add in form.adds)
            assert all(hint.says.endswith(".") for hint in form.hints)
            patterns = [add.unless for add in form.adds] + [p for hint in form.hints for p in (hint.when, hint.unless)]
            patterns += [form.ranks.refused] if form.ranks else []
            for pattern in filter(None, patterns):
                re.search(pattern, text)


# -- shells -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["bash", "-c", "vllm serve m"], ["vllm", "serve", "m"]),
        (["/bin/sh", "-c", "exec vllm serve 'my model'"], ["vllm", "serve", "my model"]),
        (["env", "A=B", "bash", "-c", "C=D exec vllm serve m"], ["env", "A=B", "env", "C=D", "vllm", "serve", "m"]),
        (["bash", "-c", "exec python -m x exec"], ["python", "-m", "x", "exec"]),
    ],
)
def test_one_plain_command_for_a_shell(command: list[str], words: list[str]) -> None:
    assert without_shell(command) == tuple(words)


@pytest.mark.parametrize(
    "command",
    [
        ["bash", "-lc", "vllm serve m"],
        ["bash", "-c", "vllm serve m", "name", "1"],
        ["bash", "-c", "vllm serve $MODEL"],
        ["bash", "-c", "cd /tmp && vllm serve m"],
        ["bash", "-c", "vllm serve m; echo done"],
        ["bash", "-c", "vllm serve m > log"],
        ["bash", "-c", "vllm serve ~/m*"],
        ["bash", "-c", "vllm serve m\nvllm serve n"],
        ["bash", "-c", "vllm serve 'm"],
        ["bash", "-c", "$(which vllm) serve m"],
        ["bash", "run.sh"],
    ],
)
def test_any_other_text_for_a_shell_stays_as_it_is(command: list[str]) -> None:
    assert without_shell(command) == tuple(command)
    plan = planned(command)
    assert plan.command == tuple(command)
    assert plan.added == ()
    assert [*filter(lambda line: "vllm" in line, plan.said())] or "vllm" not in " ".join(command)


def test_a_shell_behind_a_launcher_of_ranks_is_told() -> None:
    plan = planned(["srun", "-n", "2", "bash", "-c", "source env; vllm serve m"])
    assert (plan.ranks is not None, plan.command[plan.program]) == (True, "bash")
    assert any("names vllm" in hint for hint in plan.hints)
    assert not any("names" in hint for hint in planned(["srun", "-n", "2", "bash", "-c", "my-vllm x"]).hints)


def test_a_shell_with_a_command_that_is_none_of_ours_stays() -> None:
    command = ("bash", "-c", "python x.py")
    assert planned(list(command)).command == command


# -- what is added ----------------------------------------------------------------------------------------


def test_vllm_s_server_gets_flags_environment_argument_and_window() -> None:
    plan = planned(["vllm", "serve", "m"])
    assert names(plan) == [*VLLM, *WINDOW]
    assert plan.options == {
        "--trace-fork-before-exec": "true",
        "--capture-range": "cudaProfilerApi",
        "--capture-range-end": "repeat",
    }
    assert plan.variables == {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}
    assert plan.command == ("vllm", "serve", "m", "--profiler-config.profiler", "cuda")
    said = "\n".join(plan.said())
    assert all(add.why in said and add.text in said for add in plan.added)
    assert "--launcher none" in said


def test_what_the_user_gives_is_not_given_again() -> None:
    assert names(planned(["vllm", "serve", "m", "--profiler-config.profiler=cuda"])) == [*VLLM[:2], *WINDOW]
    assert names(planned(["vllm", "serve", "m", "--profiler-config", '{"profiler": "cuda"}'])) == [*VLLM[:2], *WINDOW]
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in names(
        planned(["vllm", "serve", "m"], {"VLLM_WORKER_MULTIPROC_METHOD": "fork"})
    )
    assert "VLLM_WORKER_MULTIPROC_METHOD" not in names(
        planned(["env", "VLLM_WORKER_MULTIPROC_METHOD=fork", "vllm", "serve", "m"])
    )
    assert (
        names(planned(["vllm", "serve", "m"], leave_out=("--profiler-config.profiler", "--capture-range"))) == VLLM[:2]
    )
    assert names(planned(["vllm", "serve", "m"], server=True)) == VLLM
    plan = planned(["vllm", "serve", "m"], launcher="none")
    assert (plan.command, plan.added, plan.said()) == (("vllm", "serve", "m"), (), [])


@pytest.mark.parametrize(
    "options",
    [
        {"extra": ("--capture-range=nvtx",)},
        {"extra": ("-c", "nvtx")},
        {"extra": ("--delay=5",)},
        {"extra": ("-y", "5")},
        {"extra": ("-d5",)},
        {"capture_range": "none"},
        {"duration_s": 3.0},
    ],
)
def test_a_part_of_the_run_that_the_user_chose_stays(options: dict[str, Any]) -> None:
    plan = plan_of(["vllm", "serve", "m"], Wishes(), ProfileOptions(env={}, **options), {})
    assert plan.window is None
    assert names(plan) == VLLM


def test_the_end_of_a_window_may_be_the_user_s() -> None:
    for options in ({"capture_range_end": "stop"}, {"extra": ("--capture-range-end=repeat:3",)}):
        plan = plan_of(["vllm", "serve", "m"], Wishes(), ProfileOptions(env={}, **options), {})
        assert names(plan) == [*VLLM, "--capture-range"]
    steps = ProfileOptions(env={}, capture_range="none")
    plan = plan_of(["trtllm-bench", "throughput"], Wishes(steps="1-2"), steps, {})
    assert (plan.window, plan.variables) == (None, {"TLLM_PROFILE_START_STOP": "1-2"})


def test_a_user_s_option_of_nsys_takes_the_place_of_an_engine_s() -> None:
    extra = ("--trace-fork-before-exec=false",)
    plan = plan_of(["trtllm-serve", "m"], Wishes(), ProfileOptions(env={}, extra=extra), {})
    assert plan.options == {}


def test_options_that_this_nsys_does_not_know_are_left_out() -> None:
    told = ProfileOptions(env={}, added={"--trace-fork-before-exec": "true"})
    assert FORKS in arguments_of(told, "--output=\n--trace-fork-before-exec=\n")
    assert FORKS not in arguments_of(told, "--output=\n")


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("vllm serve m --profiler-config.profiler torch", "is not cuda"),
        ("vllm serve m -tp 4", "--server is the surer way"),
        ("vllm serve m --tensor-parallel-size=4", "--server is the surer way"),
        ("vllm serve m --distributed-executor-backend ray", "--ray-workers-use-nsight"),
        ("vllm bench serve --model m", "nothing of the server"),
        ("python -m sglang.bench_serving", "nothing of the server"),
        ("trtllm-bench throughput", "Without --steps"),
        ("docker exec it vllm serve m", "inside|into the container"),
        ("torchrun --nnodes=2 x.py", "Only the ranks of this node"),
    ],
)
def test_hints(command: str, hint: str) -> None:
    assert any(re.search(hint, line) for line in planned(command.split()).hints)


@pytest.mark.parametrize(
    "command", ["vllm serve m --profiler-config.profiler cuda", "vllm serve m -tp 1", "torchrun --nnodes=1 x.py"]
)
def test_no_hints(command: str) -> None:
    assert not any(re.search("is not cuda|surer way|Only the", line) for line in planned(command.split()).hints)


@pytest.mark.parametrize(("code", "hints"), [(43, 1), (0, 0), (1, 0)])
def test_a_python_without_the_package_of_the_ranges(code: int, hints: int, tmp_path: Path) -> None:
    """It is asked, and only a certain answer is told; one that is not there is not asked."""
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\ntest "$3" = nvtx && exit {code}\n')
    python.chmod(0o755)
    plan = planned([str(python), "-m", "sglang.launch_server"])
    assert sum("no package nvtx" in hint for hint in plan.hints) == hints
    assert not any("no package" in hint for hint in planned([str(tmp_path / "python"), "-m", "sglang serve"]).hints)


def test_a_client_gets_a_hint_and_nothing_else() -> None:
    plan = planned(["vllm", "bench", "serve", "--model", "m"])
    assert (plan.added, plan.server) == ((), None)


def test_steps_of_tensorrt_llm() -> None:
    plan = planned(["trtllm-bench", "throughput"], steps="100-120")
    assert plan.variables == {"TLLM_PROFILE_START_STOP": "100-120"}
    assert plan.options["--capture-range"] == "cudaProfilerApi"
    assert planned(["trtllm-bench", "throughput"]).window is None
    for command, wishes in (
        (["trtllm-bench"], {"steps": "twelve"}),
        (["trtllm-serve"], {"steps": "1-2", "server": True}),
        (["vllm", "serve", "m"], {"steps": "1-2"}),
        (["python", "x.py"], {"steps": "1-2"}),
    ):
        with pytest.raises(CaptureRefused, match="--steps"):
            planned(command, **wishes)


def test_a_script_that_uses_an_engine_is_named() -> None:
    plan = planned(["python", "offline.py"], launcher="vllm")
    assert names(plan) == VLLM[:2]
    assert plan.command == ("python", "offline.py")
    with pytest.raises(CaptureRefused, match="does not call mpirun"):
        planned(["python", "x.py"], launcher="mpirun")
    with pytest.raises(CaptureRefused, match="no launcher vlm"):
        planned(["python", "x.py"], launcher="vlm")


# -- ranks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "program"),
    [
        ("mpirun -n 4 python x.py", "python"),
        ("mpirun -np 4 --mca a b -x C=1 --bind-to none --oversubscribe python x.py", "python"),
        ("mpiexec -n 2 -genv A B -ppn 2 ./app -n 3", "./app"),
        ("env A=B mpirun -n 2 env C=D python x.py", "env"),
        ("srun -N 2 -n4 --ntasks-per-node 2 -l --gpus=4 --unbuffered python x.py", "python"),
        ("srun -lu -Jname --cpu-bind none python x.py", "python"),
        ("srun -- python x.py", "python"),
        ("mpirun -n 2 --brand-new=3 python x.py", "python"),
    ],
)
def test_nsys_is_put_before_the_program_of_a_rank(command: str, program: str) -> None:
    plan = planned(command.split())
    assert plan.ranks is not None
    assert plan.command[plan.program] == program
    assert plan.command == tuple(command.split())


@pytest.mark.parametrize(
    "command",
    [
        "mpirun -n 2 --brand-new 3 python x.py",
        "mpirun -n 1 a : -n 2 b",
        "mpirun -n 2",
        "mpirun",
        "srun --brand-new python x.py",
        "srun --multi-prog x.conf",
        "srun -n 2 a : -n 1 b",
        "srun -y python x.py",
    ],
)
def test_where_the_program_of_a_rank_begins_must_be_certain(command: str) -> None:
    with pytest.raises(CaptureRefused, match="cannot be told"):
        planned(command.split())


def test_an_engine_behind_a_launcher_of_ranks_gets_its_own() -> None:
    plan = planned(["srun", "-n", "4", "--mpi", "pmix", "trtllm-llmapi-launch", "trtllm-serve", "m"])
    assert plan.ranks is not None
    assert plan.command[plan.program] == "trtllm-llmapi-launch"
    assert names(plan) == ["--trace-fork-before-exec"]
    assert names(planned(["mpirun", "-n", "2", "python", "-m", "sglang.launch_server"]))[:2] == [
        "--trace-fork-before-exec",
        "SGLANG_ENABLE_NVTX_SCHEDULER",
    ]


@pytest.mark.parametrize(
    ("command", "inside"),
    [
        ("torchrun --nproc-per-node 2 x.py a", ["python", "-u", "x.py", "a"]),
        ("python3 -m torch.distributed.run --nproc_per_node=2 x.py", ["python3", "-u", "x.py"]),
        ("torchrun --standalone -m pkg.train --x 1", ["python", "-u", "-m", "pkg.train", "--x", "1"]),
        ("torchrun --no-python ./app x", ["./app", "x"]),
    ],
)
def test_torchrun_starts_nsys_as_a_program(command: str, inside: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    plan = planned(command.split(), per_rank=True)
    assert list(plan.command[plan.program :]) == inside
    assert plan.command[plan.program - 1] == "--no-python"
    assert "-m" not in plan.command[3 : plan.program]


def test_one_report_or_one_for_each_rank() -> None:
    assert planned(["torchrun", "x.py"]).ranks is None
    assert planned(["mpirun", "-n", "2", "x"], per_rank=False).ranks is None
    for command, wishes in (
        ("srun x", {"per_rank": False}),
        ("deepspeed x.py", {"per_rank": True}),
        ("accelerate launch x.py", {"per_rank": True}),
        ("python x.py", {"per_rank": True}),
        ("vllm serve m", {"per_rank": True}),
        ("torchrun --run-path x.py", {"per_rank": True}),
        ("mpirun -n 2 trtllm-serve m", {"server": True}),
    ):
        with pytest.raises(CaptureRefused):
            planned(command.split(), **wishes)


def test_the_options_of_torchrun_are_those_of_the_torch_that_is_here() -> None:
    """Each option of its parser has the arity that stands in our list."""
    run = pytest.importorskip("torch.distributed.run")
    form = all_launchers()["torchrun"].forms[0]
    assert form.ranks is not None
    options = form.ranks.options
    actions = [one for one in run.get_args_parser()._actions if one.option_strings]
    assert len(actions) > 20
    for action in actions:
        width = 1 if action.nargs == 0 else 2
        for name in action.option_strings:
            assert options.skip([name, "value", "script.py"], 0) == width, name


_WORDS = st.sampled_from(
    ["vllm", "serve", "bench", "python", "-m", "-c", "-um", "vllm.entrypoints.api_server", "sglang.launch_server",
     "mpirun", "srun", "torchrun", "-n", "-n4", "2", "--", "-", "", "env", "A=B", "=", "--x", "--x=1", "bash", "sh",
     "-lc", "vllm serve m", "exec", "nice", "timeout", "taskset", "uv", "run", "accelerate", "launch", "--mca", ":",
     "--no-python", "--module", "trtllm-serve", "--port", "docker", "x.py", "ein Wort", "\udcff", "-\n", "'", "%q{A}"]
)  # fmt: skip


@given(
    words=st.lists(_WORDS, min_size=1, max_size=9), per_rank=st.sampled_from([None, True, False]), server=st.booleans()
)
def test_any_words_are_planned_or_refused(words: list[str], per_rank: bool | None, server: bool) -> None:
    """Nothing else is raised, none of the user's words is lost, and nsys stands before one of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dsprof.capture.plan._lacks", lambda *_: False)
        try:
            plan = planned(words, per_rank=per_rank, server=server)
        except CaptureRefused:
            return
    rest = iter(plan.command)
    unwrapped = [word for word in without_shell(words) if word not in ("-m", "--module")]
    assert all(word in rest for word in unwrapped)
    assert plan.ranks is None or 0 < plan.program < len(plan.command)


# -- where a server is ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "base"),
    [
        ("m", "http://127.0.0.1:8000"),
        ("m --port 9000", "http://127.0.0.1:9000"),
        ("m --port=9000 --host=0.0.0.0", "http://127.0.0.1:9000"),
        ("m --host ::", "http://[::1]:8000"),
        ("m --host localhost", "http://localhost:8000"),
        ("m --host 127.0.0.5", "http://127.0.0.5:8000"),
        ("m --host 10.0.0.7", None),
        ("m --host example.org", None),
        ("m --host 127.0.0.1@example.org", None),
        ("m --port 8000@example.org", None),
        ("m --port 0", None),
        ("m --port 99999", None),
        ("m --port", "http://127.0.0.1:8000"),
        ("m --uds /tmp/s", None),
        ("m --ssl-keyfile k", None),
    ],
)
def test_a_server_is_reached_on_this_machine_alone(arguments: str, base: str | None) -> None:
    server = planned(["vllm", "serve", *arguments.split()]).server
    assert server is not None
    assert base_of(server, arguments.split()) == base


def test_a_call_keeps_what_its_wrapper_sets() -> None:
    call = call_in(["env", "A=1", "B=2", "nice", "python", "-m", "x", "y"])
    assert call is not None
    assert (call.name, call.assigned, call.arguments) == ("-m x", frozenset({"A", "B"}), ("y",))
