"""The folder of a study: checksums, damage, claims, and folders that are none."""

import json
import multiprocessing
import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from joulewise.errors import InputError
from joulewise.study.store import Store, content_digest, digest_of


def test_records_come_back(tmp_path):
    store = Store(tmp_path / "study")
    record = {"trial": {"kind": "train"}, "x": [1.5, None]}
    digest = digest_of(record["trial"])
    store.write(digest, record)
    assert Store(tmp_path / "study").read(digest) == record
    assert store.read("cd") is None
    (tmp_path / "study/trials" / f"{digest}.json").rename(tmp_path / "study/trials/ab.json")
    assert store.read("ab") is None
    assert store.damaged == {"ab.json": "it is the record of another trial"}


def test_labels_and_paths_are_no_part_of_a_digest():
    one = {"kind": "sram", "label": "a", "deep": [{"path": "x", "n": 1}]}
    other = {"kind": "sram", "label": "b", "deep": [{"path": "y", "n": 1}]}
    assert digest_of(one) == digest_of(other)
    assert digest_of(one) != digest_of({**one, "kind": "pcm"})


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "binary"])
def test_damaged_records_are_named_and_missing(tmp_path, damage):
    store = Store(tmp_path)
    store.write("ab", {"x": 1.25})
    path = tmp_path / "trials/ab.json"
    text = path.read_text()
    content = {
        "truncated": text[: len(text) // 2].encode(),
        "changed": text.replace("1.25", "1.26").encode(),
        "empty": b"",
        "binary": b"\xff\x00\xfe",
    }
    path.write_bytes(content[damage])
    assert store.read("ab") is None
    assert "ab.json" in store.damaged


def test_weights_are_named_by_their_content(tmp_path):
    store = Store(tmp_path)
    digest = store.write_weights(b"weights")
    assert digest == content_digest(b"weights")
    assert store.has_weights(digest)
    store.weights_path(digest).write_bytes(b"weightz")
    assert not store.has_weights(digest)
    assert store.write_weights(b"weights") == digest
    assert store.has_weights(digest)


@pytest.mark.parametrize("name", ["comparison.json", "allocation.json", "arms.json", "notes.txt"])
def test_other_folders_are_refused_and_left_alone(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=f"holds {name} but no study.json"):
        Store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_newer_formats_are_refused_and_left_alone(tmp_path):
    store = Store(tmp_path)
    path = tmp_path / "study.json"
    newer = path.read_text().replace('"format": 2', '"format": 3')
    path.write_text(newer)
    with pytest.raises(InputError, match="format 3"):
        store.read_study()
    assert path.read_text() == newer


def test_old_temporaries_are_swept(tmp_path):
    Store(tmp_path)
    old, new = tmp_path / "trials/.a.json.00.tmp", tmp_path / "trials/.b.json.00.tmp"
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (time.time() - 7200,) * 2)
    Store(tmp_path)
    assert not old.exists()
    assert new.exists()


def _claim_in_a_child(folder, claimed, done):
    lock = Store(folder).claim("ab")
    assert lock is not None
    claimed.set()
    done.wait()
    os.kill(os.getpid(), 9)


def test_a_claim_ends_with_its_process(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    claimed, done = spawn.Event(), spawn.Event()
    child = spawn.Process(target=_claim_in_a_child, args=(tmp_path, claimed, done))
    child.start()
    assert claimed.wait(60)
    store = Store(tmp_path)
    assert store.claim("ab") is None
    done.set()
    child.join()
    lock = store.claim("ab")
    assert lock is not None
    lock.release()


def test_files_that_cannot_be_made_are_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        Store(file / "below")
    with pytest.raises(InputError, match="cannot be used"):
        Store(tmp_path / ("x" * 300))


def test_json_has_no_nan(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(ValueError, match="JSON compliant"):
        store.write("ab", {"x": float("nan")})
    assert json.loads((tmp_path / "study.json").read_text())["content"] == {}


def test_a_new_folder_may_be_opened_by_several_at_once(tmp_path):
    for number in range(10):
        with ThreadPoolExecutor(4) as pool:
            stores = list(pool.map(Store, [tmp_path / f"new{number}"] * 4))
        assert all(store.read_study() == {} for store in stores)


def test_a_folder_that_was_begun_is_taken_up(tmp_path):
    (tmp_path / ".study.json.ab.tmp").write_text("half")
    assert Store(tmp_path).read_study() == {}
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(InputError, match="without that file"):
        Store(tmp_path).read_study()
    (tmp_path / "study.json").unlink()
    assert Store(tmp_path).read_study() == {}
