"""What a network costs (`cost`), how large its activations and weights are (`magnitude`), and both drawn (`plots`)."""
