"""A predictor behind HTTP: volumes are uploaded, masks come back. FastAPI and uvicorn, without MONAI.

Nothing here knows who asks: there is no authentication and no encryption, which a proxy in front has to add.
"""

from dsnet_med.server.app import create_app
from dsnet_med.server.limits import Limits
from dsnet_med.server.listening import bound_socket, serve
from dsnet_med.server.service import Service

__all__ = ["Limits", "Service", "bound_socket", "create_app", "serve"]
