"""The web page apart from Gradio: settings, choices, models, texts, pictures and charts."""
