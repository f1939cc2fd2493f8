"""FiftyOne: suspects as a FiftyOneDataset on disk, and the labels and tags of one that was exported.

The folder is that of `dataset.export(dataset_type=fo.types.FiftyOneDataset)`: data/, metadata.json, samples.json. It is
written in the form of version 1.0.0; later ones migrate it when they import it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hydragrad.cleaning import Decided, Decision
from hydragrad.disk import make_folder, replace_file, writing
from hydragrad.errors import MarksInvalid, PresentationError
from hydragrad.labelling.exported import Exported, Suspect
from hydragrad.labelling.label_names import LabelNames, whole

METADATA, SAMPLES, PICTURES = "metadata.json", "samples.json", "data"
VERSION = "1.0.0"
GIVEN, SUGGESTED = "ground_truth", "suggested"
"""Fields with the label that is trained on, which a person changes, and with the suggested one."""
FIXED, FINE = "fixed", "fine"
"""Tags of samples: the suggested label is right, the given one is."""

HOW_TO_REDO = "export a FiftyOneDataset of this run's suspects: hydragrad export RUN --to fiftyone"


def write_dataset(exported: Exported, folder: Path) -> None:
    """Write the folder.

    Raises:
        PresentationError: A sample is not shown as a picture.
    """
    names = {suspect.sample: f"{suspect.sample:08d}.png" for suspect in exported.suspects}
    make_folder(folder / PICTURES)
    for suspect, view in zip(exported.suspects, exported.views(), strict=True):
        if not isinstance(view, np.ndarray):
            raise PresentationError(
                f"FiftyOne shows pictures; sample {suspect.sample} is none. Pass render=..., which returns a picture "
                f"of an item, or take another format."
            )
        with writing(folder / PICTURES):
            Image.fromarray(view).save(folder / PICTURES / names[suspect.sample], format="PNG", optimize=True)
    samples = [_sample(exported, suspect, f"{PICTURES}/{names[suspect.sample]}") for suspect in exported.suspects]
    _write(folder / SAMPLES, {"samples": samples})
    _write(folder / METADATA, _metadata(exported))


def _write(file: Path, body: dict[str, Any]) -> None:
    text = json.dumps(body, ensure_ascii=False)
    replace_file(file, lambda to: to.write_text(text, encoding="utf-8"))


def _id(*parts: object) -> dict[str, str]:
    """An ObjectId of MongoDB that is the same every time."""
    return {"$oid": hashlib.sha256(repr(parts).encode()).hexdigest()[:24]}


def _sample(exported: Exported, suspect: Suspect, picture: str) -> dict[str, Any]:
    digest = exported.run.digest
    labels = {GIVEN: exported.name(suspect.given), SUGGESTED: exported.name(suspect.suggested)}
    return {
        "_id": _id(digest, suspect.sample),
        "filepath": picture,
        "tags": [],
        "metadata": None,
        "_media_type": "image",
        "_rand": int(_id(digest, suspect.sample, "rand")["$oid"][:12], 16) / 16**12,
        **{
            field: {"_id": _id(digest, suspect.sample, field), "_cls": "Classification", "tags": [], "label": name}
            for field, name in labels.items()
            if name is not None
        },
        "sample": suspect.sample,
        "given_label": suspect.given,
        **suspect.measured,
    }


def _metadata(exported: Exported) -> dict[str, Any]:
    measured = dict.fromkeys(name for suspect in exported.suspects for name in suspect.measured)
    suggests = any(suspect.suggested is not None for suspect in exported.suspects)
    classes = list(exported.labels.names.values())
    fields = [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("filepath", "StringField"),
        _field("tags", "ListField", subfield="fiftyone.core.fields.StringField"),
        _field("metadata", "EmbeddedDocumentField", document="fiftyone.core.metadata.ImageMetadata", fields=_METADATA),
        _field("created_at", "DateTimeField", read_only=True),
        _field("last_modified_at", "DateTimeField", read_only=True),
        _field("_media_type", "StringField"),
        _field("_rand", "FloatField"),
        _field("_dataset_id", "ObjectIdField"),
        *(_classification(name) for name in (GIVEN, *([SUGGESTED] if suggests else []))),
        *(_field(name, "IntField") for name in ("sample", "given_label")),
        *(_field(name, "FloatField") for name in measured),
    ]
    return {
        "_id": _id(exported.run.digest),
        "name": "hydragrad suspects",
        "slug": "hydragrad-suspects",
        "version": VERSION,
        "persistent": False,
        "media_type": "image",
        "group_media_types": {},
        "tags": [],
        "info": {"run": exported.run.digest, "labels": {name: i for i, name in exported.labels.names.items()}},
        "classes": {field: classes for field in (GIVEN, SUGGESTED)},
        "default_classes": classes,
        "mask_targets": {},
        "default_mask_targets": {},
        "skeletons": {},
        "sample_fields": fields,
        "frame_fields": [],
        "saved_views": [],
        "workspaces": [],
        "annotation_runs": {},
        "brain_methods": {},
        "evaluations": {},
        "runs": {},
    }


def _field(
    name: str,
    kind: str,
    *,
    db_field: str | None = None,
    subfield: str | None = None,
    document: str | None = None,
    fields: list[dict[str, Any]] | None = None,
    read_only: bool = False,
) -> dict[str, Any]:
    return {
        "name": name,
        "ftype": f"fiftyone.core.fields.{kind}",
        "embedded_doc_type": document,
        "subfield": subfield,
        "fields": fields or [],
        "db_field": db_field or name,
        "description": None,
        "info": None,
        "read_only": read_only,
    }


_METADATA = [
    _field("size_bytes", "IntField"),
    _field("mime_type", "StringField"),
    _field("width", "IntField"),
    _field("height", "IntField"),
    _field("num_channels", "IntField"),
]


def _classification(name: str) -> dict[str, Any]:
    parts = [
        _field("id", "ObjectIdField", db_field="_id"),
        _field("tags", "ListField", subfield="fiftyone.core.fields.StringField"),
        _field("label", "StringField"),
        _field("confidence", "FloatField"),
        _field("logits", "VectorField"),
    ]
    return _field(name, "EmbeddedDocumentField", document="fiftyone.core.labels.Classification", fields=parts)


def decided_in_dataset(folder: Path, labels: LabelNames) -> Decided:
    """The decisions in an exported dataset: `ground_truth` that was changed, and the tags `fixed` and `fine`.

    Raises:
        MarksInvalid: No such files, other samples than those of `write_dataset`, or tags that contradict one another
            or the label.
    """
    metadata, body = (_read(folder / name) for name in (METADATA, SAMPLES))
    samples = body.get("samples")
    if not isinstance(samples, list):
        raise MarksInvalid(f"{folder / SAMPLES} holds no samples. To read it, {HOW_TO_REDO}.")
    stated = metadata.get("info") or {}
    for name, label in (stated.get("labels") or {}).items():
        labels.require_called(str(folder), label, name)
    decisions = [_decision(str(folder), sample, labels) for sample in samples]
    return Decided(
        source=str(folder),
        run=stated.get("run"),
        decisions=tuple(decision for decision in decisions if decision is not None),
        how_to_redo=HOW_TO_REDO,
    )


def _decision(source: str, entry: Any, labels: LabelNames) -> Decision | None:
    if not isinstance(entry, Mapping) or "sample" not in entry or "given_label" not in entry:
        raise MarksInvalid(
            f"{source} holds a sample without the fields sample and given_label, as other datasets do. To read it, "
            f"{HOW_TO_REDO}."
        )
    sample, given = whole(entry["sample"]), whole(entry["given_label"])
    current, suggested = (labels.number(_label(entry.get(field))) for field in (GIVEN, SUGGESTED))
    tags = {tag for tag in entry.get("tags") or [] if tag in (FIXED, FINE)}
    changed = current is not None and current != given
    if len(tags) > 1 or (changed and (FINE in tags or (FIXED in tags and current != suggested))):
        raise MarksInvalid(
            f"{source} says several things of sample {sample}: its tags are {', '.join(sorted(tags))}, its {GIVEN} "
            f"{'was changed' if changed else 'was not changed'}. Keep one of them."
        )
    if FIXED in tags and suggested is None:
        raise MarksInvalid(f"{source} tags sample {sample} as fixed without a suggested label. Change its {GIVEN}.")
    if not changed and not tags:
        return None
    label = current if changed else suggested if FIXED in tags else given
    return Decision(sample=sample, label=label, given_label=given)


def _label(value: Any) -> Any:
    return value.get("label") if isinstance(value, Mapping) else None


def _read(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MarksInvalid(f"There is no file {file}. To read it, {HOW_TO_REDO}.") from error
    except (ValueError, OSError) as error:
        raise MarksInvalid(f"{file} is no JSON ({error}). To read it, {HOW_TO_REDO}.") from error
    return body if isinstance(body, dict) else {}
