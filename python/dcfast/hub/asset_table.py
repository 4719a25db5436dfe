"""Files that others publish and DataComp's filters need: where they are, what they must be, and under which terms.

The hashes are those that DataComp's and dataset2metadata's own code checks; of ISC's weights their authors tell none.
"""

from __future__ import annotations

from dataclasses import dataclass

_MB, _GB = 1 << 20, 1 << 30
_BASELINES = "https://github.com/sagadre/datacomp_baseline_assets/releases/download/v0.1.0-alpha"
_FEATURES = "https://github.com/mlfoundations/dataset2metadata/releases/download/v0.1.0-alpha"
_ISC = "https://github.com/lyakaap/ISC21-Descriptor-Track-1st/releases/download/v1.0.1"
_OF_IMAGENET = "computed from ImageNet-1k, whose pictures are for research; the release names no licence"


@dataclass(frozen=True)
class Asset:
    """A published file.

    Attributes:
        name: by which it is asked for.   url: of the file.   file: its name here.
        sha256: that it must have, or its first digits; empty: nobody tells one.
        most: bytes that are taken of it.
        terms: in a few words.   use: what reads it, and by which option.
        convert: what torch has pickled becomes ``npy`` (one array) or ``safetensors`` (weights); or ``none``.
        key: of the array, where the file holds several.
        joined: file that its array becomes a part of, with those of the other assets that name it, in their order.
    """

    name: str
    url: str
    file: str
    sha256: str
    most: int
    terms: str
    use: str
    convert: str = "none"
    key: str = ""
    joined: str = ""

    @property
    def converted(self) -> str:
        """The name of what it is converted to; empty where it is not."""
        return "" if self.convert == "none" else f"{self.file.partition('.')[0]}.{self.convert}"


def _centroids(scale: str, sha256: str) -> Asset:
    file = f"{scale}_centroids_l14.pt"
    return Asset(
        f"{scale}_centroids_l14",
        f"{_BASELINES}/{file}",
        file,
        sha256,
        4 * _GB,
        "computed from DataComp's pool; the release names no licence",
        f'image_based(centroids="{scale}_centroids_l14.npy", ...) at scale {scale}, as DataComp clustered it',
        convert="npy",
    )


def _imagenet(part: int, sha256: str) -> Asset:
    file = f"in1k_clip_vit_l14_{part}.pt"
    return Asset(
        f"in1k_clip_vit_l14_{part}",
        f"{_BASELINES}/{file}",
        file,
        sha256,
        4 * _GB,
        _OF_IMAGENET,
        f'a fifth ({part + 1} of 5) of target="in1k_clip_vit_l14.npy", which image_based, normsim and vas take; made '
        "when all five are here",
        convert="npy",
        key="image_features",
        joined="in1k_clip_vit_l14.npy",
    )


ASSETS: tuple[Asset, ...] = (
    Asset(
        "lid.176",
        "https://dl.fbaipublicfiles.com/fasttext/supervised-models/lid.176.bin",
        "lid.176.bin",
        "7e69ec5451bc261cc7844e49e4792a85d7f09c06789ec800fc4a44aec362764e",
        256 * _MB,
        "CC BY-SA 3.0",
        "basic_filter, text_based, image_based: DCFAST_LID_MODEL=lid.176.bin, the model that DataComp ran",
    ),
    _imagenet(0, "304990fd492f40ba90072b80af78d6e8edcab9d042476ef513e03441cf53743b"),
    _imagenet(1, "72f008e6aa3bfb54174fa322963215337f843fc90fd642a9dccc815dd9e7ee76"),
    _imagenet(2, "83c3cc6503b8a50a22cac7023ca6cd61b130ab9725db2a7519f1bec5cabf5493"),
    _imagenet(3, "83faa289f847799ddcd438e5b74df1cb5973c345674896d10ba31ea48bc63804"),
    _imagenet(4, "067a45f4a140a93371876510a2fd9198a89ac1d194ae4063a51b45a6da69cadf"),
    _centroids("small", "23c66a05e49ad77283c1e2b33355c7eb088ac332a944c97ff85d5dfd48a5b251"),
    _centroids("medium", "028b1721b1d0f139c565b6b0ac99f8a1756f4bae89c36b0ec6d1c6ea9b6f112d"),
    _centroids("large", "04eeab1069d3540c246cf7ce69323147351a474017fc472e4c50a018ca32240b"),
    _centroids("xlarge", "3f62e5f8ae3a715ce84e422846fcfce1536d184455ea234790c4a6465c4c6726"),
    Asset(
        "imagenet21k_wordnet_ids",
        f"{_BASELINES}/imagenet21k_wordnet_ids.txt",
        "imagenet21k_wordnet_ids.txt",
        "66362bdedf36d933382edca5493fc562dcc17128ce36403c9e730a75f48cb2f2",
        16 * _MB,
        "ids of WordNet 3.0 (its own licence); the release names none",
        "text_based: DCFAST_IMAGENET21K=imagenet21k_wordnet_ids.txt",
    ),
    Asset(
        "nsfw_head",
        f"{_FEATURES}/nsfw_torch.pt",
        "nsfw_torch.pt",
        "3c97d5478477c181bfa29a33e6933f710c8ec587e3c3551ff855e293acdaf390",
        64 * _MB,
        "MIT (dataset2metadata)",
        "DataComp's score of unsafe pictures, of L/14 image embeddings",
        convert="safetensors",
    ),
    Asset(
        "isc_ft_v107",
        f"{_ISC}/isc_ft_v107.pth.tar",
        "isc_ft_v107.pth.tar",
        "",
        2 * _GB,
        "MIT (its repository); trained on ISC21's pictures, which have terms of Meta's",
        "--descriptors isc:isc_ft_v107.safetensors of dcfast evalsets sign, dcfast decontaminate and dcfast dedup",
        convert="safetensors",
    ),
    Asset(
        "eval_dedup_embeddings",
        f"{_FEATURES}/eval_dedup_embeddings.pt",
        "eval_dedup_embeddings.pt",
        "18aeb08e1d53638761e05ac95254a2ef49653bfdb59a631c9304117ceef23d14",
        4 * _GB,
        "MIT (dataset2metadata); descriptors of evaluation pictures, not the pictures",
        "dcfast evalsets sign eval_dedup_embeddings.npy: finds DataComp's evaluation pictures without having them",
        convert="npy",
    ),
)
