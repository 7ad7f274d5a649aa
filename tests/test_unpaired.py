"Learning without pairs: two folders that may not show the same, a training that ends where an undisturbed one does"
import json, signal, subprocess, sys, time
import pytest, torch
from PIL import Image
from safetensors.torch import load_file
from conftest import CPU
from sisr.cli import main
from sisr.data import ImageSet, Patches
from sisr.images import SisrError, SisrWarning, samples, to_pil, to_tensor
from sisr.resize import crop_to_multiple, downscale
from sisr.unpaired import Unpaired, twins

TINY = '--quick --set steps=40 patch=32 batch=4 width=8 blocks=1'.split()

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Small images of four scenes; the names say nothing"
    lr,hr = tmp_path_factory.mktemp('lr'),tmp_path_factory.mktemp('hr')
    for i,f in enumerate(samples()[:4]): to_pil(downscale(crop_to_multiple(to_tensor(f),4),4).clamp(-1,1)).save(lr/f'{i}.png')
    for f in samples()[4:8]: (hr/f.name).write_bytes(f.read_bytes())
    return lr,hr

def command(folders, out, *more): return ['train','--recipe','unsupervised-x4','--lr',str(folders[0]),'--hr',str(folders[1]),'--out',str(out),*TINY,*more]

def test_two_folders_become_a_network(folders, tmp_path, capsys):
    assert main(command(folders, tmp_path/'run'))==0
    out = capsys.readouterr().out.strip()
    assert out.endswith('model.safetensors')
    assert main(['upscale',str(folders[0]/'0.png'),'-o',str(tmp_path/'big.png'),'--model',out])==0
    assert Image.open(tmp_path/'big.png').size==tuple(4*n for n in Image.open(folders[0]/'0.png').size)
    looks = [json.loads(l) for l in open(tmp_path/'run'/'history.jsonl') if 'frechet' in l]
    assert len(looks)>1 and all('psnr_y' not in l for l in looks)      # no HR of these images was ever there

@pytest.mark.parametrize('copy', ['same','renamed','compressed','smaller'])
def test_the_same_picture_in_both_is_refused(folders, tmp_path, capsys, copy):
    hr = tmp_path/'hr'; hr.mkdir()
    for f in samples()[4:8]: (hr/f.name).write_bytes(f.read_bytes())
    twin,img = samples()[1],Image.open(samples()[1])
    if   copy=='same':       (hr/twin.name).write_bytes(twin.read_bytes())
    elif copy=='renamed':    (hr/'holiday.jpg').write_bytes(twin.read_bytes())
    elif copy=='compressed': img.save(hr/'holiday.jpg', quality=30)
    else:                    img.resize((img.width*3//4,img.height*3//4), Image.LANCZOS).save(hr/'holiday.webp')
    assert main(command((folders[0],hr), tmp_path/'run'))==1
    err = capsys.readouterr().err
    assert 'in both sets' in err and '1.png' in err and len(err.strip().splitlines())==1

def test_the_same_folder_twice_is_refused_in_one_line(folders, tmp_path, capsys):
    assert main(command((folders[1],folders[1]), tmp_path/'run'))==1
    err = capsys.readouterr().err
    assert '4 pictures are in both sets' in err and len(err.strip().splitlines())==1

def test_swapped_folders_are_noticed(folders, tmp_path, capsys):
    assert main(command(folders[::-1], tmp_path/'run'))==0
    assert 'are --lr and --hr swapped?' in capsys.readouterr().err

def test_large_images_too_small_for_their_protocol_are_told_in_one_line(folders, tmp_path, capsys):
    "Not each of them by name"
    assert main(command(folders[::-1], tmp_path/'run', 'protocol=faces128'))==1
    err = capsys.readouterr().err
    assert 'smaller than the 178 that protocol faces128 cuts: are --lr and --hr swapped?' in err and len(err.strip().splitlines())==1

def test_a_bad_large_image_is_named_once(folders, tmp_path, capsys):
    hr = tmp_path/'hr'; hr.mkdir()
    for f in samples()[4:8]: (hr/f.name).write_bytes(f.read_bytes())
    (hr/'0 bad.jpg').write_text('not an image')
    main(command((folders[0],hr), tmp_path/'run'))
    assert capsys.readouterr().err.count('0 bad.jpg: ')==1

def test_another_scale_is_another_recipe(folders, tmp_path, capsys):
    assert main(command(folders, tmp_path/'run', 'scale=2')) in (1,2)
    assert 'for x2 take unsupervised-x2 or faces-x2-unsupervised' in capsys.readouterr().err

def test_the_same_file_is_found_where_there_is_nothing_to_compare(tmp_path):
    g = torch.Generator().manual_seed(0)
    for i in range(3): to_pil(torch.rand(1,3,256,256, generator=g)*2-1).save(tmp_path/f'{i}.png')
    (tmp_path/'renamed.png').write_bytes((tmp_path/'1.png').read_bytes())
    assert twins(ImageSet([tmp_path/f'{i}.png' for i in range(3)]), ImageSet([tmp_path/'renamed.png'])) == [(1,0)]

def test_a_lone_picture_is_counted_once(folders, tmp_path, capsys):
    lr = tmp_path/'lr'; lr.mkdir()
    (lr/'0.png').write_bytes((folders[0]/'0.png').read_bytes())
    assert main(command((lr,samples()[0].parent), tmp_path/'run'))==1
    err = capsys.readouterr().err
    assert '1 picture is in both sets' in err and err.count('0.png')==1

def test_what_is_too_small_is_left_out(folders, tmp_path, capsys):
    hr = tmp_path/'hr'; hr.mkdir()
    Image.new('RGB', (20,20), 'red').save(hr/'an icon.png')
    assert main(command((folders[0],hr), tmp_path/'none'))==1
    assert 'no image of --hr is 32 pixels wide and high' in capsys.readouterr().err
    for f in samples()[4:8]: (hr/f.name).write_bytes(f.read_bytes())
    main(command((folders[0],hr), tmp_path/'run'))
    assert (tmp_path/'run'/'model.safetensors').exists()

def test_people_in_both_are_refused(tmp_path, capsys):
    "CelebA: another picture of the same person"
    lr,hr = tmp_path/'lr',tmp_path/'hr'
    for folder,some in ((lr,samples()[:3]),(hr,samples()[3:6])):
        folder.mkdir()
        for i,f in enumerate(some):
            img = to_tensor(f)[...,:218,:178]
            to_pil(downscale(img[...,:128,:128],4).clamp(-1,1) if folder is lr else img).save(folder/f'{i}_{f.stem}.png')
    assert main(command((lr,hr), tmp_path/'run', 'protocol=faces128'))==1
    assert '3 people are in both sets' in capsys.readouterr().err

def faces(folder, names, seed):
    "Noise as large as a picture of CelebA, or as small as LR of one"
    folder.mkdir()
    g = torch.Generator().manual_seed(seed)
    for n in names: to_pil(torch.rand(1,3,*((32,32) if n.endswith('png') else (218,178)), generator=g)*2-1).save(folder/n)
    return [*sorted(folder.iterdir())]

def together(lr, hr): return Unpaired(Patches(ImageSet(lr), 8, 1), Patches(ImageSet(hr), 32, 1), people=True)

@pytest.mark.parametrize('where', ['small','large'])
def test_people_of_celebas_list_in_both_are_refused(tmp_path, where):
    "Other pictures of the same two people; LR are PNG, and the list lies beside one side only"
    lr,hr = faces(tmp_path/'small', ['000001.png','000002.png'], 0),faces(tmp_path/'large', ['000003.jpg','000004.jpg'], 1)
    together(lr, hr)
    (tmp_path/where/'identity_CelebA.txt').write_text('000001.jpg 7\n000002.jpg 8\n000003.jpg 8\n000004.jpg 9\n')
    with pytest.raises(SisrError, match='1 person is in both sets, .*000002.png and .*000003.jpg are 8'): together(lr, hr)

def test_names_that_tell_nothing_of_people_are_no_proof(tmp_path):
    with pytest.warns(SisrWarning, match='do not tell who'):
        together(faces(tmp_path/'a', ['IMG_0001.png','00000.png'], 0), faces(tmp_path/'b', ['IMG_0002.jpg','00000.jpg'], 1))

def test_different_pictures_are_far_apart():
    assert not [(i,j) for i,j in twins(ImageSet(samples()), ImageSet(samples())) if i!=j]

def test_kill_9_then_resume_is_bit_equal(folders, tmp_path):
    run = lambda out,*more: [sys.executable,'-m','sisr.cli',*command(folders, out, *more)]
    assert subprocess.run(run(tmp_path/'a'), capture_output=True, timeout=300, env=CPU).returncode==0
    p = subprocess.Popen(run(tmp_path/'b'), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=CPU)
    for line in p.stderr:
        if 'frechet' in line: break
    time.sleep(.2); p.send_signal(signal.SIGKILL); p.wait(); p.stderr.close()
    assert subprocess.run(run(tmp_path/'b','--resume'), capture_output=True, timeout=300, env=CPU).returncode==0
    a,b = (load_file(tmp_path/k/'model.safetensors') for k in 'ab')
    assert all(torch.equal(a[k],b[k]) for k in a)
