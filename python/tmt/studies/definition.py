"""Study files: what is compared, on which pairs of domains, with which settings and seeds.

A study file is YAML:

    title: Methods on all pairs
    base: tiny                      preset or file of settings; `defaults` or nothing: the defaults of tmt.train
    settings: {target.steps: 300}   on top of the base, for every job; nested or with dots
    domains: [gtav, cityscapes]
    pairs: [[gtav, cityscapes]]     source and target; without it, every ordered pair of the domains
    roots: {cityscapes: PATH}       folders of real datasets; the other domains are drawn
    datasets:                       domains of other names: parts of datasets, or with a class map; the ones without a
      dusk: {dataset: folders, root: $DATA/camvid, train_list: dusk.txt}    root are drawn
    threads: 1                      of a job on the CPU: part of the study, because sums round differently with others
    variants:
      full: {title: Full, stage: full, role: baseline, seeds: [0, 1, 2]}
      tmt: {title: TMT, stage: tmt, role: method, seeds: [0], pairs: [[gtav, cityscapes]]}    on some pairs only
      tmt_p0.1: {title: p_T 10 %, stage: tmt, role: fraction, settings: {model.transfer_fraction: 0.1}}

A variant without a role has the one that its settings suggest (`suggested_role`). A variant with a `base` of its own
gets source models and estimators of its own. Nothing here imports torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import permutations
from pathlib import Path
from typing import Any, get_args

import yaml

from tmt.errors import ConfigError
from tmt.settings import AFFECTS, Config, DatasetName, DrawnName, Stage, arguments
from tmt.settings.fields import declared
from tmt.settings.files import hint, presets
from tmt.studies.domain_data import DomainData, place_of
from tmt.studies.variant import ROLES, SET_PER_JOB, Pair, Variant, changed, placeless, settings_of, suggested_role

STUDIES = Path(__file__).parent / "presets"
DOMAINS: tuple[str, ...] = get_args(DrawnName)
RESERVED = ("source", "estimator")
"""Stages that are no variants: what target models start from."""
STAGES = tuple(stage for stage in get_args(Stage) if stage not in RESERVED)
KEYS = ("name", "title", "base", "settings", "domains", "pairs", "roots", "datasets", "threads", "variants")
VARIANT_KEYS = ("title", "stage", "role", "seeds", "pairs", "base", "settings")
DOMAIN_KEYS = ("root", *(item.name for item in fields(DomainData)))
SETTINGS = tuple(declared(Config))


@dataclass(frozen=True)
class Definition:
    """A whole study."""

    name: str
    title: str
    domains: tuple[str, ...]
    pairs: tuple[Pair, ...]
    roots: dict[str, str]
    """Folders of real datasets; the domains without one are drawn."""
    threads: int
    config: Config
    """The settings that all variants share."""
    variants: tuple[Variant, ...]
    datasets: dict[str, DomainData] = field(default_factory=dict)
    """What domains are that are not the dataset of their name."""

    def domain(self, name: str) -> DomainData:
        """What a domain is."""
        return self.datasets.get(name, DomainData(name))


def studies() -> list[str]:
    """Names of the studies that come with the package."""
    return sorted(path.stem for path in STUDIES.glob("*.yaml"))


def find(study: str) -> Path:
    """The file of a study given by name or path. Raises ConfigError."""
    if study in studies():
        return STUDIES / f"{study}.yaml"
    if Path(study).is_file():
        return Path(study)
    raise ConfigError(
        f"study: must be one of {', '.join(studies())} or a YAML file, got {study}{hint(study, studies())}"
    )


def read(path: Path) -> Definition:
    """Read a study file. Raises ConfigError, on one line with the file, the line and the key, for anything wrong."""
    return _Reader(path).definition()


class _Reader:
    """A study file with the lines of its keys, for messages."""

    def __init__(self, path: Path):
        self.path = path
        self.lines: dict[tuple[object, ...], int] = {}
        try:
            node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            self._note(node, ())
            tree = yaml.SafeLoader("").construct_document(node) if node is not None else None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path}: cannot be read as a study file ({' '.join(str(error).split())})") from error
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: must be a study file, a mapping with the keys {', '.join(KEYS)}")
        self.tree: dict[str, Any] = tree

    def _note(self, node: yaml.Node | None, place: tuple[object, ...]) -> None:
        """Remember the line of everything in the file, by its place as a tuple of keys and positions."""
        if node is None:
            return
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                self._note(item, (*place, i))
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = (*place, key.value)
                if inner in self.lines:
                    raise self.error(inner, f"must be there once, is on line {key.start_mark.line + 1} again")
                self.lines[inner] = key.start_mark.line + 1
                self._note(value, inner)

    def error(self, place: Sequence[object], text: str) -> ConfigError:
        """An error at a place of the file."""
        found = tuple(place)
        while found not in self.lines and found:
            found = found[:-1]
        return ConfigError(f"{self.path}:{self.lines.get(found, 1)}: {'.'.join(map(str, place))}: {text}")

    def definition(self) -> Definition:
        self._check_keys((), self.tree, KEYS)
        config = self._config(self._base(()), self._settings(()), ())
        datasets = self._datasets()
        domains = self._domains((*DOMAINS, *datasets))
        return Definition(
            name=self._text(("name",), self.tree.get("name", self.path.stem)),
            title=self._text(("title",), self.tree.get("title", self.path.stem)),
            domains=domains,
            pairs=self._pairs(domains),
            roots=self._roots(domains),
            threads=self._positive(("threads",), self.tree.get("threads", 1)),
            config=config,
            variants=self._variants(config, self._pairs(domains)),
            datasets=datasets,
        )

    def _check_mapping(self, place: tuple[object, ...], tree: object) -> None:
        if not isinstance(tree, dict):
            raise self.error(place, f"must be a mapping of names to what they are, got {tree!r}")

    def _check_keys(self, place: tuple[object, ...], tree: object, keys: Sequence[str]) -> None:
        if not isinstance(tree, dict):
            raise self.error(place, f"must be a mapping with the keys {', '.join(keys)}, got {tree!r}")
        for key in tree:
            if key not in keys:
                raise self.error((*place, key), f"unknown key{hint(str(key), keys)}; must be one of {', '.join(keys)}")

    def _text(self, place: tuple[object, ...], value: object) -> str:
        if not isinstance(value, str) or not value:
            raise self.error(place, f"must be text, got {value!r}")
        return value

    def _positive(self, place: tuple[object, ...], value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.error(place, f"must be a positive whole number, got {value!r}")
        return value

    def _list(self, place: tuple[object, ...], value: object) -> list:
        if not isinstance(value, list) or not value:
            raise self.error(place, f"must be a list with at least one item, got {value!r}")
        for i, item in enumerate(value):
            if item in value[:i]:
                raise self.error((*place, i), f"must be there once, got {item!r} again")
        return value

    def _one_of(self, place: tuple[object, ...], value: object, allowed: Sequence[str]) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise self.error(place, f"must be one of {', '.join(allowed)}, got {value!r}{hint(str(value), allowed)}")
        return value

    def _datasets(self) -> dict[str, DomainData]:
        given = self.tree.get("datasets") or {}
        self._check_mapping(("datasets",), given)
        return {name: self._dataset(("datasets", name)) for name in given}

    def _dataset(self, place: tuple[object, ...]) -> DomainData:
        if not str(place[-1]).isidentifier():
            raise self.error(place, f"must be a name of letters, digits and _, got {place[-1]!r}")
        tree = self._at(place)
        self._check_keys(place, tree, DOMAIN_KEYS)
        dataset = self._one_of((*place, "dataset"), tree.get("dataset", place[-1]), get_args(DatasetName))
        given = tree.get("root") or (self.tree.get("roots") or {}).get(place[-1])
        if given is None and dataset not in DOMAINS:
            raise self.error(place, f"must have a root, as {dataset} cannot be drawn")
        files = {name: tree.get(name) for name in ("classes", "train_list", "val_list")}
        known = {name: self._text((*place, name), file) for name, file in files.items() if file is not None}
        most = tree.get("train_images")
        return DomainData(
            dataset, **known, train_images=most and self._positive((*place, "train_images"), most)
        )  # fmt: skip

    def _domains(self, known: Sequence[str]) -> tuple[str, ...]:
        given = self._list(("domains",), self.tree.get("domains", list(DOMAINS)))
        return tuple(self._one_of(("domains", i), domain, known) for i, domain in enumerate(given))

    def _pairs(self, domains: tuple[str, ...]) -> tuple[Pair, ...]:
        if self.tree.get("pairs", "all") == "all":
            if len(domains) < 2:
                raise self.error(("domains",), f"must be at least two, got {', '.join(domains)} alone")
            return tuple(permutations(domains, 2))
        return self._listed_pairs(("pairs",), self.tree["pairs"], domains)

    def _listed_pairs(self, place: tuple[object, ...], given: object, domains: tuple[str, ...]) -> tuple[Pair, ...]:
        pairs = self._list(place, given)
        for i, pair in enumerate(pairs):
            if not isinstance(pair, list) or len(pair) != 2 or pair[0] == pair[1]:
                raise self.error((*place, i), f"must be two different domains, [source, target], got {pair!r}")
            for j, domain in enumerate(pair):
                self._one_of((*place, i, j), domain, domains)
        return tuple((source, target) for source, target in pairs)

    def _roots(self, domains: tuple[str, ...]) -> dict[str, str]:
        given = self.tree.get("roots") or {}
        self._check_keys(("roots",), given, domains)
        texts = {domain: self._text(("roots", domain), root) for domain, root in given.items()}
        for domain, tree in (self.tree.get("datasets") or {}).items():
            if domain in domains and domain not in given and tree.get("root") is not None:
                texts[domain] = self._text(("datasets", domain, "root"), tree["root"])
        return {domain: place_of(root) for domain, root in texts.items()}

    def _base(self, place: tuple[object, ...]) -> list[str]:
        """The command line's part that names the base of the study, or of the variant at `place`."""
        base = self._at(place).get("base")
        if base in (None, "defaults"):
            return []
        file = self.path.parent / self._text((*place, "base"), base)
        if base not in presets() and not file.is_file():
            raise self.error(
                (*place, "base"),
                f"must be a preset ({', '.join(presets())}) or a YAML file beside this one, got {base!r}"
                f"{hint(base, presets())}",
            )
        return ["--config", base if base in presets() else str(file)]

    def _at(self, place: tuple[object, ...]) -> dict[str, Any]:
        tree: Any = self.tree
        for key in place:
            tree = tree[key]
        return tree

    def _settings(
        self, place: tuple[object, ...], shared: bool = False
    ) -> dict[tuple[object, ...], tuple[str, object]]:
        """Settings by their place in the file, each its name and value; `shared`: those of the source are fixed."""
        given = self._at(place).get("settings") or {}
        if not isinstance(given, dict):
            raise self.error((*place, "settings"), f"must be a mapping of settings of tmt.train, got {given!r}")
        found = {}
        for inner, value in _leaves(given, (*place, "settings")):
            name = ".".join(str(key) for key in inner[len(place) + 1 :])
            self._check_setting(inner, name, shared)
            found[inner] = (name, value)
        return found

    def _check_setting(self, place: tuple[object, ...], name: str, shared: bool) -> None:
        if name not in SETTINGS:
            meant = hint(name, SETTINGS) or f"; settings are {', '.join(SETTINGS)}"
            raise self.error(place, f"unknown setting{meant} (python -m tmt.train --help explains each)")
        if name in SET_PER_JOB:
            raise self.error(place, f"{name} is set by the study for each job; leave it out")
        if shared and AFFECTS[name] in ("source", "nothing"):
            raise self.error(
                place,
                f"{name} changes the source models, which all variants share; make it a setting of the study, or give "
                "the variant a base of its own",
            )

    def _config(
        self, base: list[str], settings: dict[tuple[object, ...], tuple[str, object]], place: tuple[object, ...]
    ) -> Config:
        """The settings of a base and of what the file sets on top."""
        argv = [
            f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.values()
        ]
        argv += ["--data.source=gtav", "--data.target=mapillary"]  # so that Mapillary's settings may be given
        try:
            config = arguments.parse([*base, *argv])
        except ConfigError as error:
            at = next((where for where, (name, _) in settings.items() if name in str(error)), (*place, "settings"))
            raise self.error(at, str(error)) from error
        return placeless(config)

    def _variants(self, shared: Config, pairs: tuple[Pair, ...]) -> tuple[Variant, ...]:
        given = self.tree.get("variants")
        if not isinstance(given, dict) or not given:
            raise self.error(("variants",), f"must be a mapping of at least one variant's name to it, got {given!r}")
        variants = tuple(self._variant(name, shared, pairs) for name in given)
        return tuple(one if one.role else replace(one, role=suggested_role(one, variants, shared)) for one in variants)

    def _variant(self, name: str, shared: Config, pairs: tuple[Pair, ...]) -> Variant:
        place = ("variants", name)
        if not isinstance(name, str) or not name.replace("_", "").replace(".", "").isalnum():
            raise self.error(place, f"must be a name of letters, digits, dots and _, got {name!r}")
        if name in RESERVED:
            raise self.error(place, f"must not be {' or '.join(RESERVED)}, which jobs of every study are called")
        tree = self._at(place)
        self._check_keys(place, tree, VARIANT_KEYS)
        own = tree.get("base") is not None
        settings = self._settings(place, shared=not own)
        base = self._base(place) if own else self._base(())
        config = self._config(base, {**self._settings(()), **settings}, place)
        stage = self._one_of((*place, "stage"), tree.get("stage", name), STAGES)
        return Variant(
            name=name,
            title=self._text((*place, "title"), tree.get("title", name)),
            stage=stage,
            role=self._role((*place, "role"), tree.get("role"), stage),
            seeds=self._seeds(place, tree.get("seeds", [0])),
            config=replace(config, data=shared.data),  # the domains are drawn once for all variants
            own_base=own,
            pairs=self._own_pairs((*place, "pairs"), tree.get("pairs"), pairs),
        )

    def _own_pairs(self, place: tuple[object, ...], given: object, pairs: tuple[Pair, ...]) -> tuple[Pair, ...] | None:
        """The pairs of a variant that has not all of the study's."""
        if given is None:
            return None
        own = self._listed_pairs(place, given, tuple(dict.fromkeys(domain for pair in pairs for domain in pair)))
        for i, pair in enumerate(own):
            if pair not in pairs:
                raise self.error((*place, i), f"must be one of the study's pairs, got {list(pair)}")
        return own

    def _role(self, place: tuple[object, ...], role: object, stage: str) -> str:
        """The role that is given; empty where none is."""
        return "" if role is None else self._one_of(place, role, ROLES if stage == "tmt" else ("baseline", "ablation"))

    def _seeds(self, place: tuple[object, ...], value: object) -> tuple[int, ...]:
        seeds = self._list((*place, "seeds"), value)
        for i, seed in enumerate(seeds):
            if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
                raise self.error((*place, "seeds", i), f"must be a whole number of at least 0, got {seed!r}")
        return tuple(seeds)


def _leaves(tree: dict, place: tuple[object, ...]) -> list[tuple[tuple[object, ...], object]]:
    """The values of a nested mapping, each with its place; keys with dots stay as they are."""
    leaves = []
    for key, value in tree.items():
        inner = (*place, key)
        leaves += _leaves(value, inner) if isinstance(value, dict) else [(inner, value)]
    return leaves


def to_yaml(definition: Definition) -> str:
    """The study with everything resolved: no base, all settings, all pairs. `read` reads it back."""
    datasets = {name: one.tree() for name, one in definition.datasets.items()}
    content = {
        "name": definition.name,
        "title": definition.title,
        "domains": list(definition.domains),
        "pairs": [list(pair) for pair in definition.pairs],
        "roots": definition.roots,
        **({"datasets": datasets} if datasets else {}),
        "threads": definition.threads,
        "variants": {variant.name: _variant_tree(variant, definition.config) for variant in definition.variants},
        "settings": settings_of(definition.config),
    }
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=120)


def _variant_tree(variant: Variant, shared: Config) -> dict[str, object]:
    tree = {"title": variant.title, "stage": variant.stage, "role": variant.role, "seeds": list(variant.seeds)}
    own_base: dict[str, object] = {"base": "defaults"} if variant.own_base else {}
    if variant.pairs is not None:
        own_base["pairs"] = [list(pair) for pair in variant.pairs]
    return {**tree, **own_base, "settings": changed(variant.config, shared)}


def changes(old: Definition, new: Definition) -> list[str]:
    """Where a study differs from what its finished jobs were made with; more pairs, variants and seeds do not."""
    found = _compare("settings", settings_of(old.config), settings_of(new.config))
    found += _compare("roots", *({name: study.roots.get(name) for name in old.domains} for study in (old, new)))
    for name in old.domains:
        found += [f"datasets.{name}: has changed"] if old.domain(name) != new.domain(name) else []
    found += [f"threads: {old.threads} -> {new.threads}"] if old.threads != new.threads else []
    variants = {variant.name: variant for variant in new.variants}
    for before in old.variants:
        after = variants.get(before.name)
        if after is not None:
            place = f"variants.{before.name}"
            found += [f"{place}.stage: {before.stage} -> {after.stage}"] if before.stage != after.stage else []
            found += _compare(place, settings_of(before.config), settings_of(after.config))
    return list(dict.fromkeys(found))


def _compare(place: str, old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    return [f"{place}.{name}: {value} -> {new[name]}" for name, value in old.items() if value != new[name]]
