"""A predictor behind HTTP: volumes are uploaded, masks come back. FastAPI and uvicorn, without MONAI.

Nothing here knows who asks: there is no authentication and no encryption, which a proxy in front has to add.
"""
