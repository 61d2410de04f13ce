import signal

import jax
import pytest

from hrnet_jax.commands import explain
from hrnet_jax.runs.signals import Stopped


def test_the_advice_on_memory_fits_what_the_mode_takes():
    advice = explain.out_of_memory("RESOURCE_EXHAUSTED: Out of memory", mode="predict")
    assert "the device ran out of memory (RESOURCE_EXHAUSTED: Out of memory)" in advice
    assert "with --config RECIPE --config.eval.mode=slide" in advice
    assert "batch_size" not in advice
    advice = explain.out_of_memory("RESOURCE_EXHAUSTED: Out of memory", mode="benchmark")
    assert "Lower config.train.batch_size (a quarter of it is measured)" in advice


def ended(error, **options):
    """How a program ends in which `error` is raised."""
    usual = {"mode": "train", "traceback": False, "can_resume": lambda: False}
    with pytest.raises(SystemExit) as left, explain.errors(**usual | options):
        raise error
    return left.value.code


@pytest.mark.parametrize("error", [ValueError, OSError, FloatingPointError])
def test_a_mistake_is_one_line_unless_a_traceback_is_asked_for(error):
    left = ended(error("what, where, what to do"), mode="eval")
    assert left == "Error: what, where, what to do"
    asked = explain.errors(mode="eval", traceback=True, can_resume=lambda: False)
    with pytest.raises(error), asked:
        raise error


def test_no_memory_is_one_line_and_other_errors_of_jax_are_not():
    full = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
    assert "config.train.batch_size" in ended(full)
    usual = explain.errors(mode="train", traceback=False, can_resume=lambda: False)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), usual:
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")


def test_an_interrupt_promises_a_checkpoint_only_if_there_is_one(capsys):
    resumes = " The same command resumes from the last checkpoint.\n"
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr().out == "Stopped.\n"
    assert ended(KeyboardInterrupt(), can_resume=lambda: True) == 130
    assert capsys.readouterr().out == f"Stopped.{resumes}"
    assert ended(Stopped(signal.SIGTERM)) == 143
    assert capsys.readouterr().out == f"Stopped by SIGTERM.{resumes}"


def test_a_field_that_does_not_exist_names_the_one_that_was_meant():
    text = explain.bad_flags(AttributeError("x"), ["--config.eval.flp", "--config.train.steps=3"])
    assert text == "there is no field config.eval.flp; did you mean config.eval.flip?"
    text = explain.bad_flags(AttributeError("x"), ["--config.qqq=1"])
    assert text == "there is no field config.qqq; --help lists them."
    text = explain.bad_flags(AttributeError("x"), ["--config.checkpoint.keep=3"])
    assert "the two newest are kept" in text
    assert explain.bad_flags(AttributeError("x"), ["--config.eval.flip"]) == "x"
