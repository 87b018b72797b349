"""Tests reach no network: the hub's client is told so before anything imports it."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
