from advvae.main import main

main()
