"""What is measured with extra training: the branch test, the loss along a step."""
