"""Writes evaluation sets by Hugging Face's ``datasets`` itself, of any version: run by a Python that has the library.

``python hub_library.py CACHE SOURCE HOW``: SOURCE holds ``pairs.json``, ``riddles.json``, ``images.zip`` and parquet of
the same; HOW is ``script`` (as the loading scripts of the sets do: pictures are extracted, the cache holds their paths)
or ``parquet`` (as the library reads the hub's own files: the cache holds their bytes). Nothing is fetched.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path

import datasets

PAIRS, RIDDLES = "flickr_1k_test_image_text_retrieval", "winogavil"
TEXT = datasets.Value("string")
TEXTS = [TEXT] if int(datasets.__version__.split(".")[0]) < 4 else datasets.List(TEXT)
PICTURES = [datasets.Image()] if int(datasets.__version__.split(".")[0]) < 4 else datasets.List(datasets.Image())
FEATURES = {
    PAIRS: {"image": datasets.Image(), "caption": TEXTS, "filename": TEXT},
    RIDDLES: {"candidates": TEXTS, "cue": TEXT, "associations": TEXTS, "num_candidates": datasets.Value("int64"),
              "candidate_images": PICTURES},
}  # fmt: skip


class _Scripted(datasets.GeneratorBasedBuilder):
    BUILDER_CONFIGS = [datasets.BuilderConfig(name="TEST", version=datasets.Version("1.1.0"))]
    SOURCE: Path
    SET: str

    def _info(self):
        return datasets.DatasetInfo(features=datasets.Features(FEATURES[self.SET]))

    def _split_generators(self, dl_manager):
        images = dl_manager.download_and_extract(str(self.SOURCE / "images.zip"))
        return [datasets.SplitGenerator(name="test", gen_kwargs={"images": Path(images) / "images"})]

    def _generate_examples(self, images):
        if self.SET == PAIRS:
            for number, row in enumerate(json.loads((self.SOURCE / "pairs.json").read_text())):
                yield number, {"image": str(images / row["filename"]), **row}
            return
        for number, row in enumerate(json.loads((self.SOURCE / "riddles.json").read_text())):
            paths = [str(images / f"{name}.png") for name in row["candidates"]]
            yield number, {**row, "num_candidates": len(paths), "candidate_images": paths}


def _made(cls, cache, of, **more):
    """A builder as ``load_dataset("nlphuji/NAME", cache_dir=CACHE)`` makes it, of each version by its own arguments."""
    known = inspect.signature(datasets.DatasetBuilder.__init__).parameters
    given = {"repo_id": f"nlphuji/{of}", "namespace": "nlphuji", "dataset_name": of, "hash": "0123abcd" * 5, **more}
    late = "repo_id" in known and "data_files" in more  # it would ask the hub whose files these are
    for key in ("repo_id",) if late else ("namespace",) if "repo_id" in known else ():
        del given[key]
    builder = cls(cache_dir=str(cache), **{key: value for key, value in given.items() if key in known})
    if late:
        builder.repo_id = f"nlphuji/{of}"
        builder._cache_dir = builder._output_dir = builder._build_cache_dir()
    builder.download_and_prepare()
    return builder.as_dataset(split="test")


def _parquet(cache, source, name):
    from datasets.packaged_modules.parquet.parquet import Parquet

    known = inspect.signature(datasets.DatasetBuilder.__init__).parameters
    # before 2.14 the configuration had the name of the set; before 2.0 its argument was another
    named = {"config_id": "default"} if "config_id" in known else {}
    if "dataset_name" not in known:
        named = {"config_name" if "config_name" in known else "name": f"nlphuji--{name}"}
    return _made(Parquet, cache, name, data_files={"test": [str(source / f"{name}.parquet")]}, **named)


def main():
    cache, source, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    for name in (PAIRS, RIDDLES):
        if how == "script":
            cls = type(name, (_Scripted,), {"SOURCE": source, "SET": name, "__module__": name})
            sys.modules[name] = sys.modules["__main__"]
            found = _made(cls, cache, name)
        else:
            found = _parquet(cache, source, name)
        print(name, len(found), sorted(found.features))


if __name__ == "__main__":
    main()
