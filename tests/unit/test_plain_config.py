"""The archiver's configuration: what is left out, and what can't be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from archiver.config import Config, Server, Thaw, keys_of, read_config
from archiver.errors import Unusable
from archiver.store import Store

EXAMPLE = Path(__file__).parents[2] / "examples" / "archive.ini"
SMALL = "[archive]\nstanza = s\nbucket = b\nregion = r\n"


def read(folder: Path, text: str) -> Config:
    file = folder / "archive.ini"
    file.write_text(text, encoding="utf-8")
    return read_config(str(file))


def test_little_is_enough(tmp_path: Path) -> None:
    assert read(tmp_path, SMALL) == Config(path=str(tmp_path / "archive.ini"), stanza="s", bucket="b", region="r")


def test_the_examples_comments_are_what_holds_without_them(tmp_path: Path) -> None:
    plain = read_config(str(EXAMPLE))
    assert plain.where("wal/x") == "s3://backup-bucket/counting-db/wal/x"
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    told = [line.removeprefix("# ") if " = " in line or line.lstrip("# ")[:1] == "[" else "" for line in lines]
    found = read(tmp_path, "\n".join(told))
    assert (found.limits.keep_fulls, found.limits.archive_class) == (4, "GLACIER")
    own = {"path": plain.path, "endpoint": None, "ca": None, "credentials": None, "limits": plain.limits}
    assert replace(found, **own) == plain  # type: ignore[arg-type]
    assert (plain.thaw, plain.server) == (Thaw(), Server(bin="/usr/lib/postgresql/15/bin"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "[archive] stanza is missing"),
        ("stanza = s", "can't be read"),
        (SMALL + "colour = blue\n", "[archive] colour is nothing that is known; there is: addressing, bucket"),
        (SMALL + "[colours]\n", "[colours] is nothing that is known; there is: archive"),
        (SMALL + "timeout = soon\n", "[archive] timeout = soon is no number from 1 on"),
        (SMALL + "addressing = odd\n", "[archive] addressing = odd is none of auto, path, virtual"),
        (SMALL + "[thaw]\ntier = Slow\n", "[thaw] tier = Slow is none of Bulk, Standard, Expedited"),
        (SMALL + "[retention]\narchive_class = STANDARD\n", "archive_class = STANDARD is none of GLACIER"),
    ],
)
def test_what_can_not_be_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(Unusable) as told:
        read(tmp_path, text)
    assert said in str(told.value)
    assert str(tmp_path / "archive.ini") in str(told.value)


def test_a_profile_of_awss_own_files_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "shared"
    text = "[{0}]\naws_access_key_id = {0}s-key\naws_secret_access_key = x\n"
    keys.write_text(text.format("default") + text.format("backup"), encoding="utf-8")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")

    def used(more: str) -> list[str]:
        store = Store(read(tmp_path, SMALL + more))
        return [each._request_signer._credentials.access_key for each in (store.client, store.managed)]

    assert used("") == ["defaults-key", "defaults-key"]
    assert used("profile = backup\n") == ["backups-key", "backups-key"]
    with pytest.raises(Unusable, match="nobodys"):
        used("profile = nobodys\n")


def test_a_file_of_keys_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    keys = tmp_path / "keys"
    config = read(tmp_path, SMALL + f"credentials = {keys}\n")
    with pytest.raises(Unusable, match="keys, profile default"):
        keys_of(config)
    keys.write_text("[default]\naws_access_key_id = a\n", encoding="utf-8")
    with pytest.raises(Unusable, match="no 'aws_secret_access_key'"):
        keys_of(config)
    keys.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n", encoding="utf-8")
    assert keys_of(config) == {"aws_access_key_id": "a", "aws_secret_access_key": "b"}
    assert keys_of(read(tmp_path, SMALL)) == {}
