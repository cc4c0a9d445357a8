"""A predictor behind HTTP: volumes are uploaded, masks come back. FastAPI and uvicorn, without MONAI."""
