"""The manifest of a whole model: what it takes, what it refuses, and what it finds wrong with stored files."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from trellis.artifacts import FileFacts
from trellis.exports import (
    ExportError,
    ExportManifest,
    check_contents,
    check_sizes,
    is_file_path,
    put_folder,
    read_manifest,
    write_manifest,
)
from trellis.objects import ObjectNotFoundError, ObjectStore

PREFIX = "tenants/acme/exports/one"


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(str(tmp_path / "store"))


@pytest.fixture
def manifest(store: ObjectStore, tmp_path: Path) -> ExportManifest:
    """A manifest whose files are in the store."""
    folder = tmp_path / "model"
    (folder / "additional_chat_templates").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "additional_chat_templates" / "tool.jinja").write_bytes(b"{{ x }}")
    return ExportManifest(
        format="SAFETENSORS",
        base_model="baseModels/tiny",
        base_revision="sha256:1",
        tokenizer_digest="ab",
        files=put_folder(store, PREFIX, folder),
        tuning_job="tenants/acme/tuningJobs/one",
        spec={"epochs": 3},
        metrics={"valid_loss": 0.5},
    )


def test_files_are_stored_with_their_facts(store: ObjectStore, manifest: ExportManifest) -> None:
    assert sorted(manifest.files) == ["additional_chat_templates/tool.jinja", "config.json", "model.safetensors"]
    weights = b"weights" * 1000
    assert manifest.files["model.safetensors"] == FileFacts(hashlib.sha256(weights).hexdigest(), len(weights))
    assert store.read_bytes(f"{PREFIX}/model.safetensors") == weights


def test_a_manifest_comes_back_as_it_was_written(store: ObjectStore, manifest: ExportManifest) -> None:
    digest = write_manifest(store, PREFIX, manifest)
    assert digest == hashlib.sha256(store.read_bytes(f"{PREFIX}/manifest.json")).hexdigest()
    assert read_manifest(store, PREFIX, digest) == manifest
    check_contents(store, PREFIX, manifest)


def test_another_digest_is_refused(store: ObjectStore, manifest: ExportManifest) -> None:
    write_manifest(store, PREFIX, manifest)
    with pytest.raises(ExportError, match="does not have the digest"):
        read_manifest(store, PREFIX, "0" * 64)


def test_a_manifest_that_is_not_canonical_is_not_the_one_that_was_reported(
    store: ObjectStore, manifest: ExportManifest
) -> None:
    spaced = json.dumps(json.loads(manifest.to_json()), indent=1).encode()
    store.put_bytes(f"{PREFIX}/manifest.json", spaced)
    with pytest.raises(ExportError, match="does not have the digest"):
        read_manifest(store, PREFIX, hashlib.sha256(spaced).hexdigest())


def test_without_a_manifest_nothing_is_whole(store: ObjectStore, manifest: ExportManifest) -> None:
    assert manifest.files
    with pytest.raises(ObjectNotFoundError):
        read_manifest(store, PREFIX)


def test_a_file_that_is_missing_or_cut_off_is_named(store: ObjectStore, manifest: ExportManifest) -> None:
    store.put_bytes(f"{PREFIX}/model.safetensors", b"cut off")
    with pytest.raises(ExportError, match=r"model\.safetensors has 7 bytes, but the export's manifest says 7000"):
        check_sizes(store, PREFIX, manifest)
    store.delete(f"{PREFIX}/config.json")
    with pytest.raises(ExportError, match=r"config\.json, which the export's manifest names, is missing"):
        check_sizes(store, PREFIX, replace(manifest, files={"config.json": manifest.files["config.json"]}))


def test_other_bytes_of_the_same_size_are_found(store: ObjectStore, manifest: ExportManifest) -> None:
    store.put_bytes(f"{PREFIX}/model.safetensors", b"WEIGHTS" * 1000)
    check_sizes(store, PREFIX, manifest)
    with pytest.raises(ExportError, match=r"model\.safetensors does not have the sha256"):
        check_contents(store, PREFIX, manifest)


def test_an_empty_model_is_none(store: ObjectStore, manifest: ExportManifest) -> None:
    with pytest.raises(ExportError, match="names no files"):
        check_sizes(store, PREFIX, replace(manifest, files={}))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 9}, "version 1"),
        ({"format": "PICKLE"}, "'PICKLE' is not one of"),
        ({"base_model": 7}, "base_model is not a string"),
        ({"more": ""}, "its fields are not exactly"),
        ({"files": {"../evil": {"sha256": "0" * 64, "size": 1}}}, "'../evil' has no proper path"),
        ({"files": {"a/../../evil": {"sha256": "0" * 64, "size": 1}}}, "no proper path"),
        ({"files": {"/etc/passwd": {"sha256": "0" * 64, "size": 1}}}, "no proper path"),
        ({"files": {"manifest.json": {"sha256": "0" * 64, "size": 1}}}, "no proper path"),
        ({"files": {"a": {"sha256": "0" * 64, "size": -1}}}, "no proper path, sha256 and size"),
        ({"files": {"a": {"sha256": "0" * 64, "size": True}}}, "no proper path, sha256 and size"),
        ({"metrics": []}, "are not objects"),
    ],
)
def test_what_is_no_manifest_is_refused(manifest: ExportManifest, change: dict[str, object], why: str) -> None:
    values = {**json.loads(manifest.to_json()), **change}
    with pytest.raises(ExportError, match=why):
        ExportManifest.from_json(json.dumps(values))


@pytest.mark.parametrize("path", [".hidden", "a/.hidden", "a//b", "a/b/c/d/e", "", "a\\b", "a b", "-a", "ä", "a\n"])
def test_odd_paths_are_no_files(path: str) -> None:
    assert not is_file_path(path)
