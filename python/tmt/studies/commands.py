"""What a job runs: commands of this package, and what they find in their environment."""

import os
import sys

from tmt.data.spec import DatasetSpec
from tmt.studies.domain_data import with_domain
from tmt.studies.jobs import Job
from tmt.studies.process import Commands
from tmt.studies.study import Study


def commands_of(job: Job, study: Study, processes: int = 1) -> Commands:
    """The commands of a job, to be run one after another; with several processes, under torchrun."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    train = [*launcher, "tmt.train", "--config", str(job.folder / "config.yaml"), "--resume"]
    if job.kind != "source":
        return [train]
    return [train, [*launcher, "tmt.cli.score", str(study.folder), job.id]]


def dataset_of(study: Study, domain: str) -> DatasetSpec:
    """The dataset of one of a study's domains."""
    root = study.root(domain)
    data = with_domain(study.definition.config.data, "target", study.definition.domain(domain), str(root))
    return DatasetSpec.of(data, "target", root)


def environment_of(study: Study) -> dict[str, str]:
    """What a job's processes find in their environment, beside what they inherit."""
    threads = str(study.definition.threads)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if os.environ.get("PYTHONPATH"):  # a worker may have another working directory
        paths = os.environ["PYTHONPATH"].split(os.pathsep)
        environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths)
    return environment
