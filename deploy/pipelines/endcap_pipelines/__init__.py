"""From a data folder to an Endcap bundle source."""

import os

# ONNX Runtime reads this when its library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
