"""Train networks on Fashion-MNIST by one recipe."""
