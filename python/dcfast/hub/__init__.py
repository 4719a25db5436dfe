"""Hugging Face's hub: files of its repositories, whole or not at all, held to a lock file; published assets."""
