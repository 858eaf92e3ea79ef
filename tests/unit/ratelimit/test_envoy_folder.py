"""The runtime folder: which files are read, when they are read again, and what a wrong one changes."""

from pathlib import Path

import pytest

from chassis.errors import Invalid
from services.ratelimit.rules.envoy_folder import DescriptorFolder, Place

GOOD = "domain: {}\ndescriptors:\n  - key: user\n    rate_limit: {{ unit: minute, requests_per_unit: {} }}\n"


def write(path: Path, domain: str = "shop", requests: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(GOOD.format(domain, requests), encoding="utf-8")


def opened(place: Place) -> DescriptorFolder:
    return DescriptorFolder(place, merge_domains=False, counts_denied=True)


def domains(folder: DescriptorFolder) -> list[str]:
    assert folder.book is not None
    return sorted(folder.book.domains)


def test_all_files_of_the_application_folder_are_read(tmp_path: Path) -> None:
    """Those in folders below it too; those of other applications not; dot files only where they are meant."""
    for name, domain in (("config/a.yaml", "a"), ("config/deep/b", "b"), ("config/.c", "c"), ("config/.d/e", "e")):
        write(tmp_path / "rl" / name, domain)
    write(tmp_path / "rl" / "other" / "z.yaml", "z")
    place = Place(root=tmp_path, subdirectory="rl")
    assert domains(opened(place)) == ["a", "b", "c", "e"]
    assert domains(opened(Place(root=tmp_path, subdirectory="rl", ignore_dot_files=True))) == ["a", "b"]


def test_a_link_that_is_swapped_is_a_new_configuration(tmp_path: Path) -> None:
    """With the root watched, files that change in place do not count, the swap does."""
    write(tmp_path / "one" / "rl" / "config" / "a.yaml", "one")
    write(tmp_path / "two" / "rl" / "config" / "a.yaml", "two")
    current = tmp_path / "current"
    current.symlink_to("one")
    place = Place(root=current, subdirectory="rl")
    before = place.signature()
    write(tmp_path / "one" / "rl" / "config" / "b.yaml", "half")
    assert place.signature() == before
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(current)
    assert place.signature() != before
    assert domains(opened(place)) == ["two"]


def test_files_are_followed_where_the_root_is_not_watched(tmp_path: Path) -> None:
    """New, changed and removed files each make a new configuration."""
    config = tmp_path / "rl" / "config"
    write(config / "a.yaml")
    place = Place(root=tmp_path, subdirectory="rl", watch_root=False)
    seen = [place.signature()]
    write(config / "b.yaml", "bank")
    seen.append(place.signature())
    write(config / "b.yaml", "bank", 1000)
    seen.append(place.signature())
    (config / "a.yaml").unlink()
    seen.append(place.signature())
    assert len(set(seen)) == 4


def test_the_watched_folder_is_one_that_exists(tmp_path: Path) -> None:
    """The one that holds the link; or the files' own, or what is there of the way to it."""
    (tmp_path / "root").mkdir()
    by_link = Place(root=tmp_path / "root", subdirectory="rl")
    by_files = Place(root=tmp_path / "root", subdirectory="rl", watch_root=False)
    assert (by_link.watched, by_files.watched) == (tmp_path, tmp_path / "root")
    by_files.folder.mkdir(parents=True)
    assert by_files.watched == by_files.folder


def test_a_wrong_file_keeps_the_old_configuration(tmp_path: Path) -> None:
    """The reason is told, with file and line; a right one later is taken."""
    path = tmp_path / "rl" / "config" / "a.yaml"
    write(path)
    folder = opened(Place(root=tmp_path, subdirectory="rl"))
    path.write_text("domain: shop\nkay: 1\n", encoding="utf-8")
    folder.load()
    assert domains(folder) == ["shop"]
    assert folder.problem.startswith("rl/config/a.yaml:2: unknown key 'kay'")
    write(path, "bank")
    folder.load()
    assert (domains(folder), folder.problem) == (["bank"], "")


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Bytes that are no text, with their line, and links to nowhere; before there was a right one, there is none."""
    config = tmp_path / "rl" / "config"
    write(config / "a.yaml")
    (config / "b.yaml").write_bytes(b"domain: x\n\xff\n")
    folder = opened(Place(root=tmp_path, subdirectory="rl"))
    assert (folder.book, folder.problem) == (None, "rl/config/b.yaml:2: this is not YAML: not UTF-8")
    (config / "b.yaml").unlink()
    (config / "b.yaml").symlink_to("nowhere")
    folder.load()
    assert folder.problem == "rl/config/b.yaml:1: the file cannot be read: No such file or directory"


def test_no_root_is_refused_and_no_files_are_no_limits(tmp_path: Path) -> None:
    """A root that is not there is a mistake; an empty folder configures nothing."""
    with pytest.raises(Invalid, match="RUNTIME_ROOT"):
        opened(Place(root=tmp_path / "nowhere", subdirectory="rl"))
    assert domains(opened(Place(root=tmp_path, subdirectory="rl"))) == []
