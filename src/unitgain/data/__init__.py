"""Training data: images and labels (`dataset`), what the network sees of them (`encoder`), in which order (`order`)."""
