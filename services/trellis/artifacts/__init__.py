"""Adapters as folders: the manifest that names one, and the gate that each must pass before it is served."""

from trellis.artifacts.adapter_config import AdapterConfig, parse_adapter_config, read_adapter_config
from trellis.artifacts.errors import ArtifactError
from trellis.artifacts.gate import (
    ADAPTER_FILES,
    CONFIG_FILE,
    MANIFEST_FILE,
    WEIGHTS_FILE,
    AdapterFacts,
    check_adapter_folder,
    read_safetensors_header,
)
from trellis.artifacts.manifest import MANIFEST_VERSION, FileFacts, Manifest, file_facts

__all__ = [
    "ADAPTER_FILES",
    "CONFIG_FILE",
    "MANIFEST_FILE",
    "MANIFEST_VERSION",
    "WEIGHTS_FILE",
    "AdapterConfig",
    "AdapterFacts",
    "ArtifactError",
    "FileFacts",
    "Manifest",
    "check_adapter_folder",
    "file_facts",
    "parse_adapter_config",
    "read_adapter_config",
    "read_safetensors_header",
]
