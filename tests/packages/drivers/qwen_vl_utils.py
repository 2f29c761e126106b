"""Stands for qwen-vl-utils, which a package imports without need when its model runs in a server."""


def process_vision_info(messages): ...
