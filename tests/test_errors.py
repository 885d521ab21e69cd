"""What the user can mend is one line and a non-zero exit; a bug keeps its traceback."""

import errno

import pytest

from summlens.core.errors import UserError, one_line_errors


def leave_with(error):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    return stop.value.code


def test_a_mistake_is_one_line():
    assert leave_with(UserError("no such file: check the name")) == "error: no such file: check the name"


def test_ctrl_c_says_how_to_go_on(capsys):
    assert leave_with(KeyboardInterrupt()) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x.npz"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1978432 vs 1978320"),
        RuntimeError('Error while serializing: I/O error: Os { code: 28, kind: StorageFull, message: "No space" }'),
    ],
)
def test_a_full_disk_is_one_line_whatever_library_met_it(error):
    assert "disk is full" in leave_with(error)


def test_a_full_disk_behind_another_error_is_found():
    error = RuntimeError("writing failed")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "disk is full" in leave_with(error)


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
