from types import SimpleNamespace


def update_package_index(): ...


def get_available_packages():
    return [SimpleNamespace(from_code="fr", to_code="en", download=lambda: "fr-en")]


def install_from_path(path): ...
