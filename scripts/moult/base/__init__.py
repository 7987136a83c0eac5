"""What every other package may use: files, downloads, errors, secrets. It knows nothing of Moult's stages."""
