from advvae.cli import main

main()
