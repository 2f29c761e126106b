"""A checkpoint of LeRobot as a policy. Needs the package `lerobot`, 0.4 or newer, which brings PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from dora.nodes.policy.load import Policy, PolicyError

_TASK: Final = "task"


def load_checkpoint(path: str, device: str, task: str) -> Policy:
    """Return the policy of a checkpoint: a folder, or a name that LeRobot downloads.

    The inputs of the node are called as the features of the checkpoint, `observation.state` and
    `observation.images.front`; an input `task` takes the place of ``task``. Raises `PolicyError`.
    """
    try:
        import lerobot.policies.factory as factory
        from lerobot.configs.policies import PreTrainedConfig
    except ImportError as error:
        raise PolicyError(
            f"a checkpoint of LeRobot needs the package `lerobot`, which cannot be imported ({error}); "
            "install it with: pip install lerobot"
        ) from None
    try:
        config = PreTrainedConfig.from_pretrained(path)
        config.device = device
        model = factory.get_policy_class(config.type).from_pretrained(path, config=config)
        overrides = {"device_processor": {"device": device}}
        processors = factory.make_pre_post_processors(
            config, pretrained_path=path, preprocessor_overrides=overrides
        )
    except Exception as error:  # noqa: BLE001 - LeRobot raises anything for a file that is no checkpoint
        reason = str(error).strip().partition("\n")[0]
        raise PolicyError(f"{path} is no checkpoint that LeRobot can load: {reason}") from None
    found = Checkpoint(model, config, processors, device, task)
    steps = tuple(config.observation_delta_indices or (0,))
    rtc = getattr(config, "rtc_config", None)
    wants = ("metadata", "left_over", "delay") if rtc is not None and rtc.enabled else ("metadata",)
    return Policy(path, found, wants, model.reset, tuple(config.input_features), steps)


class Checkpoint:
    """Calls a model of LeRobot with its own pre- and post-processing."""

    def __init__(self, model: Any, config: Any, processors: Any, device: str, task: str) -> None:
        model.eval()
        self._model = model
        self._config = config
        self._before, self._after = processors
        self._device = device
        self._task = task
        self._normalised: Any = None  # the last chunk, as the model gave it
        # Some models read their past from queues, which only `select_action` of LeRobot fills.
        self._steps = len(config.observation_delta_indices or (0,))

    def __call__(
        self,
        observation: Mapping[str, Any],
        metadata: Mapping[str, Mapping[str, Any]],
        left_over: Any = None,
        delay: int = 0,
    ) -> Any:
        """Return the actions (steps, numbers of an action) for an observation."""
        import torch

        rows = [self._row(observation, metadata, step) for step in range(self._steps)]
        options: dict[str, Any] = {}
        if left_over is not None and self._normalised is not None:
            options["prev_chunk_left_over"] = self._normalised[:, -len(left_over) :]
            options["inference_delay"] = min(delay, len(left_over))
        with torch.no_grad():
            batches = [self._before(row) for row in rows]
            batch = batches[-1] if self._steps == 1 else self._fill_queues(batches)
            self._normalised = self._model.predict_action_chunk(batch, **options)
            # Post-processing is written for single actions, (batch, numbers of an action).
            return torch.stack([self._after(step)[0] for step in self._normalised.unbind(1)])

    def _row(
        self, observation: Mapping[str, Any], metadata: Mapping[str, Mapping[str, Any]], step: int
    ) -> dict[str, Any]:
        """Return one observation as LeRobot wants it: tensors with a batch of one, pictures in 0 to 1."""
        import torch
        from lerobot.policies.utils import prepare_observation_for_inference

        values: dict[str, Any] = {}
        task = self._task
        for name, value in observation.items():
            if name == _TASK:
                task = str(np.ravel(value)[-1])
                continue
            if name not in self._config.input_features:
                continue
            array = value[step] if self._steps > 1 else value
            if "image" in name:
                values[name] = _picture(name, array, metadata[name]).copy()  # PyTorch wants to write
            else:
                values[name] = np.array(array, np.float32)
        found: dict[str, Any] = prepare_observation_for_inference(values, torch.device(self._device), task)
        return found

    def _fill_queues(self, batches: list[dict[str, Any]]) -> dict[str, Any]:
        import torch
        from lerobot.policies.utils import populate_queues
        from lerobot.utils.constants import ACTION, OBS_IMAGES

        self._model.reset()
        for batch in batches:
            batch.pop(ACTION, None)
            if self._config.image_features:
                pictures = [batch[name] for name in self._config.image_features]
                batch[OBS_IMAGES] = torch.stack(pictures, dim=-4)
            populate_queues(self._model._queues, batch)
        return batches[-1]


def _picture(name: str, array: Any, metadata: Mapping[str, Any]) -> Any:
    """Return a picture (height, width, 3) in RGB."""
    encoding = metadata.get("encoding", "bgr8")
    if array.ndim != 3 or array.shape[-1] != 3 or encoding not in ("bgr8", "rgb8"):
        raise PolicyError(
            f"a picture of `{name}` has the shape {array.shape} and the encoding `{encoding}`; a "
            "checkpoint of LeRobot takes arrays (height, width, 3) in `bgr8` or `rgb8`"
        )
    return array[..., ::-1] if encoding == "bgr8" else array
