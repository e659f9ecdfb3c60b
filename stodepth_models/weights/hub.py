"""Models in folders and on the Hub: ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``, with a model card."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import ModelCard, ModelHubMixin, constants, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from torch import Tensor, nn

from .card import TASK, write_card
from .checkpoint import Checkpoint, parse_config, read_file, write_file
from .config import Configured, config_of
from .download import is_file
from .errors import CheckpointError, DownloadError
from .files import write_atomically
from .load import load_checkpoint
from .rebuild import check_describes, check_rebuilds, rebuild
from .sources import RUN_FILES

logger = logging.getLogger("stodepth_models")

WEIGHTS, CONFIG = "model.safetensors", "config.json"

REMOTE_OPTIONS = ("revision", "cache_dir", "force_download", "local_files_only", "token")

Model = TypeVar("Model", bound="HubModel")


class HubModel(
    Configured,
    ModelHubMixin,
    library_name="stodepth_models",
    pipeline_tag=TASK,
    tags=["stochastic-depth", "resnet", "arxiv:1603.09382"],
):
    """Base of the models: huggingface_hub's ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    ``save_pretrained(folder)`` writes ``model.safetensors`` with the configuration in its header, the same
    ``config.json``, and a model card where the folder has none. ``from_pretrained(folder or "org/repo",
    **overrides)`` builds the same model, in evaluation mode; ``overrides`` are keyword arguments of its builder, and
    change no evaluation output.
    """

    def save_pretrained(self, save_directory: str | Path, *, config: Any = None, **options: Any) -> str | None:
        """Write the weights, the configuration and a model card to a folder.

        Args:
            save_directory: the folder.
            config: not taken: the configuration is that of the model.
            **options: ``repo_id``, ``push_to_hub`` and ``model_card_kwargs`` of ``huggingface_hub``; the latter are
                the arguments of :meth:`generate_model_card`.

        Raises:
            TypeError: ``config`` is given.
            ValueError: :meth:`from_pretrained` could not build this model.
        """
        _refuse_config("save_pretrained", config)
        return super().save_pretrained(save_directory, **options)

    def push_to_hub(self, repo_id: str, *, config: Any = None, **options: Any) -> str:
        """Upload what :meth:`save_pretrained` writes; arguments as there and in ``huggingface_hub``."""
        _refuse_config("push_to_hub", config)
        return super().push_to_hub(repo_id, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        config = config_of(self)
        if self.built_with is not None:
            check_rebuilds(self, config, self.built_with.callables)
        # Each tensor on its own: safetensors refuses those that share memory, such as tied weights.
        state = {name: tensor.detach().clone() for name, tensor in self.state_dict().items()}
        write_file(save_directory / WEIGHTS, state, config)
        text = json.dumps(config, indent=2) + "\n"
        write_atomically(save_directory / CONFIG, text.encode())

    @classmethod
    def from_pretrained(cls: type[Model], pretrained_model_name_or_path: str | Path, **options: Any) -> Model:
        """Build a saved model again, with its weights, in evaluation mode.

        Args:
            pretrained_model_name_or_path: folder that ``save_pretrained`` or a training run wrote, or repository on the
                Hub.
            **options: ``revision``, ``token``, ``cache_dir``, ``force_download`` and ``local_files_only`` of
                ``huggingface_hub``, and keyword arguments of the builder, which take the place of the saved ones and
                change no evaluation output.

        Raises:
            CheckpointError: the file is damaged, or ``save_pretrained`` did not write it.
            DownloadError: neither a folder nor a repository that can be reached.
            FileNotFoundError: the folder holds no weights.
            ValueError: an option that is not allowed, or a model of the other family.
        """
        source = str(pretrained_model_name_or_path)
        _refuse_config("from_pretrained", options.pop("config", None))
        remote = {key: options.pop(key) for key in REMOTE_OPTIONS if key in options}
        weights, beside = _files(source, remote)
        checkpoint = read_file(weights, str(weights))
        config = _read_beside(beside, checkpoint) or checkpoint.config
        if config is None:
            raise CheckpointError(f"{source} was not saved by save_pretrained: build a model and use load_pretrained")
        check_describes(config, options, checkpoint)
        model = rebuild(config, options)
        if not isinstance(model, cls):
            raise ValueError(f"{source} holds a {type(model).__name__}, use {type(model).__name__}.from_pretrained")
        _take_dtypes(model, checkpoint.state_dict)
        load_checkpoint(model, checkpoint)
        return model.eval()

    def generate_model_card(
        self,
        *,
        license: str | None = None,
        dataset: str | None = None,
        metrics: Mapping[str, float] | None = None,
        **_: Any,  # the name of the repository
    ) -> ModelCard:
        """Return the card that ``save_pretrained`` writes as ``README.md``.

        Args:
            license: identifier of the licence, such as ``"bsd-3-clause"``.
            dataset: name of the data set that the model was trained on and that the metrics were measured on.
            metrics: figures by their names on the Hub, such as ``{"accuracy": 0.93}``, which the Hub shows.

        Raises:
            ValueError: ``metrics`` without ``dataset``.
        """
        template = self._hub_mixin_info.model_card_data.to_dict()
        return write_card(config_of(self), type(self).__name__, template, license, dataset, metrics or {})


def _refuse_config(method: str, config: Any) -> None:
    if config is not None:
        raise TypeError(
            f"{method} takes no config, got {type(config).__name__}: the configuration is that of the model; "
            "from_pretrained takes keyword arguments of the builder in place of the saved ones"
        )


def _files(source: str, remote: Mapping[str, Any]) -> tuple[Path, Path | None]:
    """Return the weights and, where there is one, the configuration in a folder or a repository."""
    if _is_folder(source):
        if is_file(Path(source, WEIGHTS)):
            return Path(source, WEIGHTS), Path(source, CONFIG)
        for name in RUN_FILES:  # of a training run, whose config.json describes the run
            if is_file(Path(source, name)):
                return Path(source, name), None
        raise FileNotFoundError(f"the folder {source} holds no {WEIGHTS}")
    try:
        weights = Path(hf_hub_download(source, WEIGHTS, **remote))
        try:
            return weights, Path(hf_hub_download(source, CONFIG, **remote))
        except EntryNotFoundError:
            return weights, None
    except HFValidationError:
        raise DownloadError(f"{source} is neither a folder nor the name of a repository, org/name") from None
    except OSError as error:
        why = f"{error}"
        if constants.HF_HUB_OFFLINE:
            why = "HF_HUB_OFFLINE is set, and the cache lacks it"
        raise DownloadError(
            f"there is no folder {source}, and the repository of that name cannot be fetched: "
            f"{type(error).__name__}: {why}"
        ) from error


def _is_folder(source: str) -> bool:
    try:
        return Path(source).is_dir()
    except OSError:  # a name that the file system does not take
        return False


def _read_beside(path: Path | None, checkpoint: Checkpoint) -> Mapping[str, Any] | None:
    """Return the configuration beside the weights; None where there is none, or where the header replaces it."""
    if path is None or not path.exists():
        return None
    try:
        if not is_file(path):  # to open a named pipe would wait for ever
            raise CheckpointError(f"{path} is no file")
        return parse_config(path.read_bytes(), str(path))
    except CheckpointError as error:
        if checkpoint.config is None:
            raise
        logger.warning("%s: the configuration in the header of the weights takes its place", error)
        return None


def _take_dtypes(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give every weight the dtype it was saved with: norms may be more precise than the rest."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in weights:
            tensor.data = tensor.data.to(weights[name].dtype)
