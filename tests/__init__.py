"""The tests. Settings and proxies of whoever runs them are not theirs."""

import os

from local.settings import LocalSettings

for _name in list(os.environ):
    if _name.lower().endswith("_proxy") or _name.lower() in LocalSettings.model_fields:
        del os.environ[_name]
