"""An HTTP server of models in the manner of OpenAI's; all of it needs the extra `serve`."""
