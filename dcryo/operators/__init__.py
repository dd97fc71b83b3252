"""The linear operators of the project: H and its exact adjoint, and the convolution that HᵀH is."""
