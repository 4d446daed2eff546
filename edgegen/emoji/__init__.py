"""The bundled model's data: emoji fetched and rendered, captions of them, scenes made of them."""
