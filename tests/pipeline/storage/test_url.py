"""URLs are told from paths, joined as their kind is, and never print what may be secret."""

from pathlib import Path

import click
import pytest

from pipeline.command_line import Folder
from pipeline.errors import StoreError
from pipeline.storage.url import Url, path_or_url, scrubbed


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("cache", Path("cache")),
        ("./s3:/odd", Path("s3:/odd")),
        ("C:/eyes", Path("C:/eyes")),
        ("s3://eyes/cache", Url("s3://eyes/cache")),
        ("gs://eyes", Url("gs://eyes")),
        ("HTTPS://host/eyes", Url("HTTPS://host/eyes")),
    ],
)
def test_a_url_begins_with_its_scheme_and_all_else_is_a_path(text: str, wanted: Path | Url) -> None:
    assert path_or_url(text) == wanted
    assert path_or_url(wanted) == wanted


def test_an_unknown_scheme_is_named_with_the_known_ones() -> None:
    with pytest.raises(StoreError, match=r"ftp://host/x: of URLs only s3://, gs://, https://, http:// are known"):
        path_or_url("ftp://host/x")


@pytest.mark.parametrize(
    ("url", "name", "wanted"),
    [
        ("s3://eyes/cache/", "shards/0000.tar", "s3://eyes/cache/shards/0000.tar"),
        ("s3://eyes", "17 left?#%.jpeg", "s3://eyes/17 left?#%.jpeg"),
        ("https://host/eyes", "17 left?#%.jpeg", "https://host/eyes/17%20left%3F%23%25.jpeg"),
        ("https://host/eyes?sig=1", "a.tar", "https://host/eyes/a.tar?sig=1"),
    ],
)
def test_names_are_joined_as_the_store_has_them(url: str, name: str, wanted: str) -> None:
    joined = Url(url) / name
    assert joined.text == wanted
    assert joined.name == name.rpartition("/")[2]
    assert (joined.parent / joined.name).text == wanted


@pytest.mark.parametrize(
    "secret",
    [
        "https://anna:hunter22@host/eyes",
        "https://host/eyes?X-Amz-Signature=hunter22&X-Amz-Date=2020",
        "403 for url 'https://host/eyes?token=hunter22'",
        "The key AKIAHUNTER22HUNTER22 is not known",
    ],
)
def test_secrets_are_struck_out(secret: str) -> None:
    assert "hunter22" not in scrubbed(secret).lower()
    if "://" in secret:
        assert "host/eyes" in scrubbed(secret)


def test_a_url_prints_scrubbed_and_keys_of_the_environment_never_show(monkeypatch: pytest.MonkeyPatch) -> None:
    url = Url("https://anna:hunter22@host/eyes?sig=hunter22")
    assert "hunter22" not in f"{url} {url!r} {url / 'x'} {[url]}"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "correct/horse/battery")
    assert scrubbed("signed with correct/horse/battery") == "signed with ***"


def test_places_have_legible_folders_of_their_own() -> None:
    slugs = [Url(text).slug for text in ("s3://eyes/cache", "s3://eyes-cache", "s3://eyes/cache2", "gs://eyes/cache")]
    assert len(set(slugs)) == 4
    assert slugs[0].startswith("eyes-cache-")
    assert Url("s3://eyes/cache/").slug == slugs[0]
    assert Url("https://a:b@host/eyes?sig=1").slug == Url("https://host/eyes?sig=2").slug  # whoever asks


def test_a_url_where_only_a_folder_will_do_is_wrong_usage() -> None:
    with pytest.raises(click.BadParameter, match=r"https://\*\*\*@host is a URL; this must be a path"):
        Folder(path_type=Path).convert("https://a:hunter22@host", None, None)
