"""The settings of the commands that use a saved model, a dataset or a study."""

from dataclasses import dataclass
from typing import Literal

from tmt.settings.data import DatasetName, DrawnName, MapillaryMapping, MapillaryVersion
from tmt.settings.fields import AT_LEAST_ONE, NOT_NEGATIVE, SHARE, Range, Settings, setting
from tmt.settings.run import Device
from tmt.settings.training import InferenceConfig

Kind = Literal["labels", "overlay", "transferability", "confidence"]
Keep = Literal["all", "models", "nothing"]
RegionScore = Literal["random", "entropy", "ripu", "divergence", "conditional", "conditional_entropy"]
Score = Literal[RegionScore, "images"]


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(InferenceConfig):
    """Evaluate a saved model: every mIoU in use, fwIoU, mACC, pACC and all classes, at the labels' resolution."""

    model: str = setting(given="positional")
    """Folder of a saved model, ours or a plain Mask2Former."""
    dataset: DatasetName
    """Layout and label encoding of the dataset; `folders` is one of your own."""
    root: str
    """Folder of the dataset."""
    split: str = "val"
    """Split of the dataset, such as train, val or test."""
    mapillary_mapping: MapillaryMapping = "strict"
    """Mapillary labels that count as a Cityscapes class: `strict`, those of one meaning; `broad`, near ones too."""
    mapillary_version: MapillaryVersion | None = None
    """Release of the Mapillary labels, v1.2 or v2.0; none: the newest that is there."""
    classes: str | None = None
    """Class map: a CSV file of the dataset's classes and those of the model that they become, or one of the package's;
    none: its own classes."""
    images: str | None = None
    """Text file that names the images to evaluate on, NAME or SPLIT/NAME a line; none: the whole split."""
    out: str | None = None
    """Folder for metrics.json, scores.md and pictures; none: only print."""
    pictures: int = setting(0, NOT_NEGATIVE)
    """Images to draw, with prediction, transferability and superpixel borders."""
    transferability: bool | None = None
    """Switches the transferability off or on in inference; none: as the model was saved."""
    device: Device = "auto"
    """Where to compute; auto: CUDA when there is a GPU, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig(InferenceConfig):
    """Segment images with a saved model and write labels, overlays, transferability and confidence as PNG."""

    model: str = setting(given="positional")
    """Folder of a saved model, ours or a plain Mask2Former."""
    paths: tuple[str, ...] = setting(given="positional")
    """Images, folders that are searched to their bottom, and patterns such as 'city/*/*.png'."""
    out: str
    """Folder for the pictures; made where it is missing."""
    save: tuple[Kind, ...] = ("labels", "overlay")
    """Kinds of pictures to write: labels, overlay, transferability, confidence."""
    ids: Literal["train", "label"] = "train"
    """Ids in the labels: `train`, 0 to K - 1, or `label`, those of Cityscapes that its official evaluator reads."""
    opacity: float = setting(0.6, SHARE)
    """Opacity of the class colours over the image."""
    batch: int = setting(1, AT_LEAST_ONE)
    """Images that go through the network together, where neighbours in the list are of one size."""
    overwrite: bool = False
    """Whether pictures that exist are made anew; else they are kept, and only what is missing is made."""
    transferability: bool | None = None
    """Switches the transferability off or on in inference; none: as the model was saved."""
    device: Device = "auto"
    """Where to compute; auto: CUDA when there is a GPU, else the CPU."""


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Settings):
    """Draw how a model of stage tmt treats an image: superpixels, T, and where a query attends, layer by layer."""

    model: str = setting(given="positional")
    """Folder of a saved model that uses the transferability in inference."""
    image: str = setting(given="positional")
    """An image."""
    follow: str | None = None
    """Class whose query is followed; none: the largest that is predicted in less than a fifth of the image."""
    out: str
    """The picture, a PNG."""


@dataclass(frozen=True, kw_only=True)
class ExportConfig(Settings):
    """Write a saved model as one file that runs without this package; compared with the model before it is kept."""

    model: str = setting(given="positional")
    """Folder of a saved model, ours or a plain Mask2Former."""
    format: Literal["torch", "onnx"] = "onnx"
    """Kind of file: `torch`, a program of torch.export (.pt2), or `onnx` (.onnx)."""
    out: str
    """File to write."""
    size: tuple[int, int] = setting((512, 1024), Range(at_least=32))
    """Height and width of the images, in pixels."""
    batch: int = setting(1, AT_LEAST_ONE)
    """Images that go through the network together."""
    dynamic: Literal["batch", "size"] | None = None
    """What another call may have otherwise: `batch`, the number of images, or `size`, height and width, then each a
    multiple of 32 from 64 to 4096; some backbones decide by the size and are refused."""
    transferability: bool | None = None
    """Switches the transferability off or on in inference; none: as the model was saved."""
    images: int = setting(4, AT_LEAST_ONE)
    """Drawn scenes on which the file's labels are compared with the model's."""
    overwrite: bool = False
    """Whether a file that exists is replaced."""


@dataclass(frozen=True, kw_only=True)
class LabelConfig(InferenceConfig):
    """Choose the regions of images that a person should label next, or, in a simulation, reveal their labels."""

    model: str = setting(given="positional")
    """Folder of a saved model, ours or a plain Mask2Former."""
    data: str = setting(given="positional")
    """Folder of images, searched to its bottom; with --dataset, the folder of that dataset."""
    budget: str
    """How much is labelled: a share of all pixels, such as 2.2%, or a number of regions (with `images`, of images)."""
    score: Score = "entropy"
    """What is labelled first, by the mean over a region: `random`; `entropy` of the class scores; `ripu`, entropy times
    that of the classes predicted in the region; `divergence`, 1 - T; `conditional`, 1 - T of an estimator of that kind;
    `conditional_entropy`, that times entropy; `images`, whole images."""
    images_by: RegionScore = "entropy"
    """With `images`: the score whose mean over an image counts."""
    estimator: str | None = None
    """File of an estimator that was trained on the model's features, for scores that need T; none: the model's own."""
    out: str
    """Folder for picks.csv, picks.json, index.html, masks and overlays; made where it is missing."""
    dataset: DatasetName | None = None
    """Layout of `data` as a dataset; none: a folder of images."""
    split: str = "train"
    """With --dataset: its split whose images are looked at."""
    images: str | None = None
    """With --dataset: text file that names the images to look at, NAME or SPLIT/NAME a line; none: the whole split."""
    classes: str | None = None
    """With --dataset: class map of the dataset's classes, a CSV file or one of the package's; none: its own classes."""
    reveal: bool = False
    """Whether to reveal the labels that the dataset has where they were picked: `dataset` in `out` is then a dataset of
    the layout `folders`, to be trained on."""
    labelled: str | None = None
    """Folder of label maps from before, named as the images, 255 where there is no label: regions with a label are not
    picked again, and --reveal keeps theirs."""
    cell: int | None = setting(None, Range(at_least=2))
    """Side in pixels of the squares that superpixels begin as; none: 1/32 of an image's height, at least 8."""
    seed: int = setting(0, NOT_NEGATIVE)
    """Seed of the score `random`."""
    overwrite: bool = False
    """Whether picks that are in `out` are replaced."""
    device: Device = "auto"
    """Where to compute; auto: CUDA when there is a GPU, else the CPU."""

    @property
    def picks_images(self) -> bool:
        """Whether images are picked as a whole."""
        return self.score == "images"

    @property
    def region_score(self) -> RegionScore:
        """The score of a region that counts, of whole images by its mean."""
        return self.images_by if self.score == "images" else self.score


@dataclass(frozen=True, kw_only=True)
class ReportConfig(Settings):
    """Make the report of a study, finished or not."""

    study: str = setting(given="positional")
    """Folder of the study (python -m tmt.experiments)."""
    out: str | None = None
    """Folder of the report; none: `report` in the study's folder."""
    images: int = setting(1, NOT_NEGATIVE)
    """Validation images that are drawn of each pair; 0: no pictures."""


@dataclass(frozen=True, kw_only=True)
class MakeConfig(Settings):
    """Draw synthetic street scenes in the layout and label encoding of a dataset."""

    dataset: DrawnName
    """Layout, label encoding and look."""
    root: str
    """Folder to make; new, empty, or made by the same command."""
    train: int = setting(400, AT_LEAST_ONE)
    """Number of training images."""
    val: int = setting(60, AT_LEAST_ONE)
    """Number of validation images."""
    size: tuple[int, int] = setting((96, 192), Range(at_least=16))
    """Height and width of the images, in pixels."""
    seed: int = setting(0, NOT_NEGATIVE)
    """Seed of the scenes; others give other scenes."""
    distance: float = setting(1.0, NOT_NEGATIVE)
    """How far the look is from what all domains share: 1, the domain's own in full; 0, alike."""


@dataclass(frozen=True, kw_only=True)
class CheckConfig(Settings):
    """Check a dataset on disk: pair images with labels, read every file, and say on one line each what is wrong. Writes
    report.json and contact.png. Exit code: 0 clean, 1 faults, 2 a mistake in the command."""

    dataset: DatasetName = setting(given="positional")
    """Layout and label encoding: cityscapes, bdd100k, mapillary, gtav, synthia, camvid, idd, idd_lite, labelmefacade,
    or folders, one of your own."""
    root: str = setting(given="positional")
    """Folder of the dataset."""
    splits: tuple[str, ...] = ()
    """Splits to check, such as train,val; none: all that should have labels."""
    mapping: MapillaryMapping = "strict"
    """Mapillary labels that count as a Cityscapes class: `strict`, those of one meaning; `broad`, near ones too."""
    version: MapillaryVersion | None = None
    """Release of the Mapillary labels, v1.2 or v2.0; none: the newest that is there."""
    classes: str | None = None
    """Class map: a CSV file of the dataset's classes and the coarser ones that they become, or one of the package's;
    none: its own classes."""
    labelled: bool = True
    """Whether its images have labels; false: images alone are looked at, as data.target_labelled=false reads them."""
    partial: bool = False
    """Whether other numbers of images than were published are no fault."""
    workers: int | None = setting(None, NOT_NEGATIVE)
    """Processes that read files; none: one per processor, up to 16."""
    out: str | None = None
    """Folder for report and contact sheet; none: runs/check/DATASET."""


@dataclass(frozen=True, kw_only=True)
class PictureConfig(Settings):
    """Draw a few scenes of every synthetic domain into one PNG."""

    out: str
    """PNG file to write."""
    scenes: int = setting(4, AT_LEAST_ONE)
    """Scenes of each domain."""
    first: int = setting(8, NOT_NEGATIVE)
    """Number of the first scene."""
    distance: float = setting(1.0, NOT_NEGATIVE)
    """How far the looks are from what all domains share: 1, each domain's own in full; 0, alike."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig(Settings):
    """Run a study: the many trainings behind a table or figure. Killed and started again, it goes on with what is
    missing. Without a study, those that come with the package are listed."""

    study: str | None = setting(None, given="positional")
    """A study of the package, a YAML file, or a study's folder."""
    out: str | None = None
    """The study's folder; none: runs/NAME."""
    list: bool = False
    """Whether to say only what is done, running, missing and failed."""
    commands: bool = False
    """Whether to print only the commands of the jobs that are not done."""
    export: str | None = None
    """Folder to write the results to, one table and study.yaml, to be kept; nothing is run then."""
    only: str = "*"
    """Pattern: the jobs whose id matches are run, and what these need."""
    reuse: str | None = setting(None, given="--from")
    """Folder of another study: what it trained with the same settings is taken over first."""
    root: tuple[str, ...] = setting((), given="repeated")
    """Folder of a real dataset, as DATASET=PATH; once for each."""
    jobs: int | None = setting(None, AT_LEAST_ONE)
    """Jobs at a time; none: one per GPU or, without GPUs, CPU cores / threads."""
    processes: int = setting(1, AT_LEAST_ONE)
    """Processes of each job, by torchrun."""
    retry: int = setting(1, NOT_NEGATIVE)
    """Further attempts at a job that fails."""
    keep: Keep = "models"
    """What stays in the folders of finished jobs: `models`, the last weights; `all`, the best ones too; `nothing`,
    neither. Results and logs always stay, checkpoints never."""
    backend: Literal["local", "ray"] = "local"
    """Where jobs run: processes here, or tasks on a Ray cluster."""
    address: str | None = None
    """Ray: the cluster's address, or auto; none: a cluster of this machine alone."""
    cpus: float | None = setting(None, NOT_NEGATIVE)
    """Ray: CPU cores per job; none: the study's threads."""
    gpus: float = setting(0.0, NOT_NEGATIVE)
    """Ray: GPUs per job, or a fraction of one."""
