"""Where the library keeps what a container needs."""

import os
import threading

from pyrunc.library.places import remove_folder


def test_what_comes_into_a_folder_while_it_is_removed_goes_too(tmp_path):
    place = f"{tmp_path}/place"

    def own():
        while True:
            try:
                os.mkdir(f"{place}/owned")
            except FileExistsError:
                continue
            except FileNotFoundError:
                return

    for _ in range(50):
        os.mkdir(place)
        owner = threading.Thread(target=own)
        owner.start()
        remove_folder(place)
        owner.join()
        assert not os.path.exists(place)
