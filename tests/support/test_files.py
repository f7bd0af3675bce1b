import multiprocessing
import time

import pytest

from neuroshare.support.files import locked


def count_up(folder, n):
    """Read a number, wait, and write one more; as often as asked."""
    for _ in range(n):
        with locked(folder / ".lock") as ours:
            assert ours
            before = int((folder / "number").read_text())
            time.sleep(0.002)
            (folder / "number").write_text(str(before + 1))


def test_one_process_at_a_time_holds_a_lock_though_its_file_comes_and_goes(tmp_path):
    (tmp_path / "number").write_text("0")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=count_up, args=(tmp_path, 20)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert (tmp_path / "number").read_text() == "60"
    assert not (tmp_path / ".lock").exists()


def test_a_lock_is_given_back_whatever_happens_while_it_is_held(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / ".lock"):
        raise KeyError("lost")
    with locked(tmp_path / ".lock", wait=False) as ours:
        assert ours
        with locked(tmp_path / ".lock", wait=False) as other:
            assert not other
        assert (tmp_path / ".lock").exists(), "the file of the holder stays"
