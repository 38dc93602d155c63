"""What is wrong with a program of Voltflow on this machine, and how it is mended: `voltflow doctor`, `support-bundle`."""
