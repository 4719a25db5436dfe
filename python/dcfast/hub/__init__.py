"""Hugging Face's hub: files of its repositories, fetched whole or not at all, and held to a lock file; published assets."""
