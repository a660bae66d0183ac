"""``python -m lrlab.sweep lr=0.001,0.1,1.0``: the entry point. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from typing import Any, NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from lrlab import completion
from lrlab import config as configs
from lrlab.errors import UserError

ConfigStore.instance().store(name="lrlab_schema", node=configs.Config, provider="lrlab")


def task(config: DictConfig) -> dict[str, Any]:
    """Train one run. Hydra's own launchers call this for each job; the lanes launcher does not."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import open_dict

    from lrlab import environment, launch

    environment.make_deterministic()
    with open_dict(config):
        config.hydra = HydraConfig.get()
    try:
        return launch.run_one(launch.spec(config))
    except UserError as error:
        fail(error)


def main() -> None:
    """Run a sweep; bad input ends with one line and exit code 2."""
    bash = completion.answer(sys.argv[1:])
    if bash is not None:
        print(bash, end="")
        return
    application = hydra.main(
        version_base="1.3", config_path=str(configs.folder("conf")), config_name="config"
    )(task)
    wanted = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, rather than to Hydra's own printer
    try:
        application()
    except (UserError, HydraException, OmegaConfBaseException, ValueError) as error:
        # A ValueError of Hydra's own is data=5; any other is a bug, which must show its place.
        if wanted == "1" or (type(error) is ValueError and "group override" not in str(error)):
            raise
        fail(error)
    except KeyboardInterrupt:
        print("lrlab: interrupted before training began", file=sys.stderr)
        sys.exit(130)


def fail(error: Exception) -> NoReturn:
    """Print what the user can do in one line and exit with 2."""
    line = str(error) if isinstance(error, UserError) else configs.one_line(error)
    print(f"lrlab: {line}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
