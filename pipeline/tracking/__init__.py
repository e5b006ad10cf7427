"""MLflow: the server, its runs, the versions in its registry. No telemetry, no pickle, no progress bars.

Everything is logged by the driver alone, over absolute URIs: workers may change directories, and sqlite has one writer.
"""

import os
from typing import Final

SAFE: Final = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_LOG_UV_FILES": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
os.environ.update({name: os.environ.get(name, value) for name, value in SAFE.items()})  # read when mlflow is imported
