"""The public names, and that they cost nothing until they are used."""

import subprocess
import sys

import pytest

import dsprof

FIRST_SKETCH = ("StageTiming", "converter", "prefill_range", "decode_range", "DeepSeekOCRSession", "run_once",
                "mean_std", "mfu")  # fmt: skip


def test_the_first_sketch_s_names_are_there():
    assert set(FIRST_SKETCH) <= set(dsprof.__all__) <= set(dir(dsprof))


@pytest.mark.parametrize("name", dsprof.__all__)
def test_each_public_name_is_what_it_says(name):
    found = getattr(dsprof, name)
    assert getattr(found, "__name__", name) == name
    assert name == "converter" or found.__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        dsprof.Nothing  # noqa: B018


def test_importing_dsprof_loads_nothing_heavy():
    program = "import sys, dsprof; print(sorted({'numpy', 'pandas', 'pyarrow', 'torch', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
